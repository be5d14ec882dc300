import type { Api } from "./api.ts";
import { reconnectDelay } from "./backoff.ts";
import type { Conversation } from "./conversation.ts";
import { Refusal } from "./errors.ts";
import type { ConversationUpdated, ListedConversation, Presence } from "./wire.ts";

/** My conversations as the list shows them: asked for once a connection, then kept by events. */
export class ConversationList {
  me = "";
  /** Whether the list was had at least once. */
  isLoaded = false;
  /** Asks for the conversations after the last one; undefined if these are all. */
  private cursor: string | undefined;
  private readonly byId = new Map<string, ListedConversation>();
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private attempt = 0;
  private isStopped = false;

  constructor(
    private readonly api: Api,
    private readonly onChange: () => void,
  ) {}

  /** Newest activity first. */
  get all(): ListedConversation[] {
    return [...this.byId.values()].sort((a, b) => activity(b) - activity(a));
  }

  get hasMore(): boolean {
    return this.cursor !== undefined;
  }

  get(id: string): ListedConversation | undefined {
    return this.byId.get(id);
  }

  /** Asks for the newest conversations, again and again until they are had. */
  async load(): Promise<void> {
    clearTimeout(this.retryTimer);
    const known = [...this.byId];
    try {
      const page = await this.api.conversations();
      const found = new Set(page.results.map(({ id }) => id));
      const oldest = Math.min(...page.results.map(activity));
      for (const [id, held] of known) {
        // What would stand on this page and doesn't is no longer mine; older ones stand on pages loaded before.
        if (!found.has(id) && (!page.next || activity(held) >= oldest)) this.byId.delete(id);
      }
      if (!this.isLoaded || this.byId.size === 0) this.cursor = page.next ?? undefined;
      page.results.forEach((conversation) => this.merge(conversation));
      this.isLoaded = true;
      this.attempt = 0;
      this.onChange();
    } catch {
      if (!this.isStopped) this.retryTimer = setTimeout(() => void this.load(), reconnectDelay(this.attempt++));
    }
  }

  /** Asks for the page after the last one. */
  async loadMore(): Promise<void> {
    const page = await this.api.conversations(this.cursor);
    this.cursor = page.next ?? undefined;
    page.results.forEach((conversation) => this.merge(conversation));
    this.onChange();
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.retryTimer);
  }

  /** Adds a conversation, or what is new about it. */
  put(conversation: ListedConversation): void {
    this.merge(conversation);
    this.onChange();
  }

  /** News of a conversation that isn't joined. */
  async update({ conversation_id, reason, last_message, unread_count }: ConversationUpdated): Promise<void> {
    const held = this.byId.get(conversation_id);
    if (!held || reason === "added" || reason === "removed") return this.refresh(conversation_id);
    const isNews = last_message !== null && last_message.seq > (held.last_message?.seq ?? 0);
    if (last_message && last_message.seq >= (held.last_message?.seq ?? 0)) held.last_message = last_message;
    if (isNews && last_message) held.updated_at = last_message.created_at;
    // The server couldn't count just now.
    const counted = held.unread_count + (isNews && last_message?.sender_id !== this.me ? 1 : 0);
    held.unread_count = unread_count ?? counted;
    this.onChange();
  }

  presence({ user_id, online, last_seen }: Presence): void {
    for (const { participants } of this.byId.values()) {
      for (const participant of participants) {
        if (participant.user_id === user_id) Object.assign(participant, { online, last_seen: last_seen ?? participant.last_seen });
      }
    }
  }

  /** The entry of an open conversation follows its log. */
  follow({ timeline, readMarkers, online, phase }: Conversation): void {
    const last = timeline.messages.at(-1);
    const held = last && this.byId.get(last.conversation_id);
    if (!held) return;
    const isNewer = last.seq > (held.last_message?.seq ?? 0);
    if (isNewer) held.updated_at = last.created_at;
    if (isNewer || last.seq === held.last_message?.seq) held.last_message = last;
    if (phase !== "live") return;
    for (const participant of held.participants) participant.online = online.has(participant.user_id);
    held.last_read_seq = readMarkers.get(this.me) ?? held.last_read_seq;
    const unread = timeline.messages.filter(({ seq, sender_id }) => seq > held.last_read_seq && sender_id !== this.me).length;
    // More may be unread than is loaded.
    const isWhole = unread === 0 || !timeline.hasOlder || (timeline.messages[0]?.seq ?? 0) <= held.last_read_seq;
    held.unread_count = isWhole ? unread : Math.max(unread, held.unread_count);
  }

  private async refresh(id: string): Promise<void> {
    try {
      this.merge(await this.api.conversation(id));
    } catch (error) {
      // Any other failure: the next load of the list tells.
      if (error instanceof Refusal && (error.code === "not_found" || error.code === "forbidden")) this.byId.delete(id);
    }
    this.onChange();
  }

  private merge(conversation: ListedConversation): void {
    const held = this.byId.get(conversation.id);
    const isOlder = (conversation.last_message?.seq ?? 0) < (held?.last_message?.seq ?? 0);
    if (held && isOlder) {
      // The answer was made before the event that came meanwhile.
      const { last_message, unread_count, last_read_seq, updated_at } = held;
      this.byId.set(conversation.id, { ...conversation, last_message, unread_count, last_read_seq, updated_at });
    } else {
      this.byId.set(conversation.id, conversation);
    }
  }
}

function activity({ updated_at, last_message, created_at }: ListedConversation): number {
  return Date.parse(updated_at ?? last_message?.created_at ?? created_at);
}
