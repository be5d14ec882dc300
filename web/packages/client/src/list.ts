import type { Api } from "./api.ts";
import { reconnectDelay } from "./backoff.ts";
import { Refusal } from "./errors.ts";
import type { ListedConversation, ListedParticipant } from "./rest.ts";
import { Observable } from "./store.ts";
import type { ConversationUpdated, LogEvent, Message, Presence } from "./wire.ts";

/** My conversations as a list shows them. */
export interface ConversationsSnapshot {
  /** Newest activity first. */
  readonly items: readonly ListedConversation[];
  /** Whether the list was had at least once. */
  readonly isLoaded: boolean;
  /** Why it could not be had last; it is asked for again by itself. */
  readonly problem: Error | undefined;
  /** Whether there are conversations after the last one. */
  readonly hasMore: boolean;
  /** Others' messages that I haven't read, of the conversations in the list. */
  readonly unreadCount: number;
}

/** An open conversation: knows better than the list. */
export interface Followed {
  readonly id: string;
  /** What its log tells of its entry in the list. */
  news(entry: ListedConversation): Partial<ListedConversation>;
}

/** My conversations: asked for once a connection, then kept by events. */
export class Conversations extends Observable<ConversationsSnapshot> {
  readonly #api: Api;
  readonly #me: () => string;
  readonly #followed: () => Iterable<Followed>;
  #isLoaded = false;
  #problem: Error | undefined;
  /** Asks for the conversations after the last one; undefined if these are all. */
  #cursor: string | undefined;
  readonly #byId = new Map<string, ListedConversation>();
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  #isStopped = false;

  /** `followed`: the open conversations; what the list tells of them may be older than what their own events told. */
  constructor(api: Api, me: () => string, followed: () => Iterable<Followed>) {
    super();
    this.#api = api;
    this.#me = me;
    this.#followed = followed;
  }

  get(id: string): ListedConversation | undefined {
    return this.#byId.get(id);
  }

  /** Asks for the newest conversations, again and again until they are had. */
  async load(): Promise<void> {
    clearTimeout(this.#retryTimer);
    this.#isStopped = false;
    const known = [...this.#byId];
    try {
      const page = await this.#api.conversations();
      const found = new Set(page.results.map(({ id }) => id));
      const oldest = Math.min(...page.results.map(activity));
      for (const [id, held] of known) {
        // What would stand on this page and doesn't is no longer mine; older ones stand on pages loaded before.
        if (!found.has(id) && (!page.next || activity(held) >= oldest)) this.#byId.delete(id);
      }
      if (!this.#isLoaded || this.#byId.size === 0) this.#cursor = page.next ?? undefined;
      this.#isLoaded = true;
      this.#attempt = 0;
      this.#problem = undefined;
      this.put(...page.results);
    } catch (error) {
      if (this.#isStopped) return;
      clearTimeout(this.#retryTimer);
      this.#retryTimer = setTimeout(() => void this.load(), reconnectDelay(this.#attempt++));
      this.#problem = error as Error;
      this.changed();
    }
  }

  /** Asks for the page after the last one. */
  async loadMore(): Promise<void> {
    const page = await this.#api.conversations(this.#cursor);
    this.#cursor = page.next ?? undefined;
    this.put(...page.results);
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#retryTimer);
  }

  /** Adds conversations, or what is new about them. */
  put(...conversations: ListedConversation[]): void {
    for (const conversation of conversations) this.#merge(conversation);
    for (const conversation of this.#followed()) this.#follow(conversation);
    this.changed();
  }

  /** News of a conversation that isn't joined: a message, a change of its last one, or of what I have read. */
  update({ conversation_id, reason, last_message, unread_count }: ConversationUpdated): void {
    if (reason === "added" || reason === "removed") void this.#refresh(conversation_id);
    else this.#news(conversation_id, last_message, unread_count);
  }

  /** An event of a conversation that this client hasn't opened: another tab, on the same connection, has. */
  overhear(event: LogEvent): void {
    if (event.type === "new_message") this.#news(event.conversation_id, event, null);
    else if (event.type !== "read" || event.user_id === this.#me()) void this.#refresh(event.conversation_id);
  }

  presence({ user_id, online, last_seen }: Presence): void {
    for (const [id, entry] of this.#byId) {
      if (!entry.participants.some((it) => it.user_id === user_id)) continue;
      const changed = (it: ListedParticipant) => (it.user_id === user_id ? { ...it, online, last_seen: last_seen ?? it.last_seen } : it);
      this.#byId.set(id, { ...entry, participants: entry.participants.map(changed) });
    }
    this.changed();
  }

  /** The entry of an open conversation follows its log. */
  follow(conversation: Followed): void {
    if (this.#follow(conversation)) this.changed();
  }

  protected makeSnapshot(): ConversationsSnapshot {
    const items = [...this.#byId.values()].sort((a, b) => activity(b) - activity(a));
    const unreadCount = items.reduce((sum, { unread_count }) => sum + unread_count, 0);
    return { items, isLoaded: this.#isLoaded, problem: this.#problem, hasMore: this.#cursor !== undefined, unreadCount };
  }

  #follow({ id, news }: Followed): boolean {
    const held = this.#byId.get(id);
    if (!held) return false;
    const next = { ...held, ...news(held) };
    this.#byId.set(id, next);
    return (Object.keys(next) as (keyof ListedConversation)[]).some((name) => next[name] !== held[name]);
  }

  #news(id: string, last: Message | null, unread: number | null): void {
    const held = this.#byId.get(id);
    if (!held) return void this.#refresh(id);
    const change = withLast(held, last);
    // Null: the server couldn't count just now.
    const unread_count = unread ?? held.unread_count + (change.updated_at && last?.sender_id !== this.#me() ? 1 : 0);
    this.#byId.set(id, { ...held, ...change, unread_count });
    this.changed();
  }

  async #refresh(id: string): Promise<void> {
    try {
      this.put(await this.#api.conversation(id));
    } catch (error) {
      // Any other failure: the next load of the list tells.
      const isGone = error instanceof Refusal && (error.code === "not_found" || error.code === "forbidden");
      if (isGone && this.#byId.delete(id)) this.changed();
    }
  }

  #merge(conversation: ListedConversation): void {
    const held = this.#byId.get(conversation.id);
    if (held && isOlder(conversation.last_message, held.last_message)) {
      // The answer was made before the event that came meanwhile.
      const { last_message, unread_count, last_read_seq, updated_at } = held;
      this.#byId.set(conversation.id, { ...conversation, last_message, unread_count, last_read_seq, updated_at });
    } else {
      this.#byId.set(conversation.id, conversation);
    }
  }
}

/** What a message changes about the entry of its conversation: nothing, if it isn't its last one. */
export function withLast(entry: ListedConversation, message: Message | null | undefined): Partial<ListedConversation> {
  const held = entry.last_message;
  if (!message || isOlder(message, held)) return {};
  return { last_message: message, ...(message.seq !== held?.seq && { updated_at: message.created_at }) };
}

/** Whether another message, or the same one in a later state, is held already: deleted is for good. */
function isOlder(last: Message | null | undefined, held: Message | null | undefined): boolean {
  const ahead = (last?.seq ?? 0) - (held?.seq ?? 0);
  return ahead < 0 || (!ahead && !!held?.deleted_at && !last?.deleted_at);
}

function activity({ updated_at }: ListedConversation): number {
  return Date.parse(updated_at);
}
