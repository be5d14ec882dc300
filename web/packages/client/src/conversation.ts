import type { Api } from "./api.ts";
import type { Wire } from "./connection.ts";
import { Refusal } from "./errors.ts";
import { Joining, type Phase } from "./joining.ts";
import { type Conversations, withLast } from "./list.ts";
import { Members } from "./members.ts";
import { asMessage, type ChatMessage, logged, onItsWay } from "./message.ts";
import type { Outbox, Outgoing } from "./outbox.ts";
import { Reading } from "./reading.ts";
import type { ListedConversation } from "./rest.ts";
import { Observable } from "./store.ts";
import { Timeline } from "./timeline.ts";
import { TypingState, type TypingUser } from "./typing.ts";
import { uuidv7 } from "./uuid.ts";
import type { Command, LogEvent, MessageType, Participant, Presence, SendAck, Typing, User } from "./wire.ts";

/** One conversation as it is shown. */
export interface ConversationSnapshot {
  readonly id: string;
  readonly phase: Phase;
  /** Why it can't be joined, while `phase` is `refused`. */
  readonly problem: Refusal | undefined;
  /** Those held of the log, in order, then mine that are on their way. */
  readonly messages: readonly ChatMessage[];
  /** Whether there are messages before the first one: see `loadOlder`. */
  readonly hasOlder: boolean;
  readonly isLoadingOlder: boolean;
  readonly participants: readonly Participant[];
  /** Ids of the participants who are connected. */
  readonly online: ReadonlySet<string>;
  /** The others who are typing. */
  readonly typing: readonly TypingUser[];
  /** The last `seq` read, by user id. */
  readonly readMarkers: ReadonlyMap<string, number>;
}

/** What goes with a message besides its content, named as in the protocol. */
export interface SendOptions {
  /** `text` unless given. */
  message_type?: MessageType;
  /** An object of at most 4 KiB of JSON. */
  metadata?: Record<string, unknown>;
  /** The `seq` of the message that this one answers. */
  reply_to?: number;
  /** A UUID that the message has already: it is stored once, however often it is sent. */
  client_id?: string;
}

/** What all conversations of a chat share. */
export interface Shared {
  /** Who I am; an empty `user_id` before the server said so. */
  readonly me: User;
  readonly api: Pick<Api, "messagesBefore">;
  readonly outbox: Outbox;
  readonly connection: Wire;
  readonly conversations: Pick<Conversations, "get" | "follow">;
  readonly historyLimit: number;
  /** Sends an edit or a deletion, again if it has to wait. */
  insist(command: Command): Promise<void>;
  onLeft(conversation: Conversation): void;
}

/**
 * One conversation. It is joined while somebody watches it, over every reconnect, and brought up to date whenever
 * something is missing; messages can be sent either way.
 */
export class Conversation extends Observable<ConversationSnapshot> {
  readonly id: string;
  readonly #chat: Shared;
  readonly #timeline: Timeline;
  readonly #joining: Joining;
  readonly #members = new Members();
  readonly #typing = new TypingState(() => this.changed());
  readonly #reading = new Reading((seq) => this.#chat.connection.request({ type: "mark_read", conversation_id: this.id, seq }));
  /** The last `seq` that reached one of the others: they were connected. */
  #delivered = 0;
  #isLoadingOlder = false;

  /** @internal */
  constructor(id: string, chat: Shared) {
    super();
    this.id = id;
    this.#chat = chat;
    this.#timeline = new Timeline(chat.historyLimit);
    this.#joining = new Joining(id, this.#timeline, chat.connection, {
      onJoined: (joined, after) => {
        this.#members.join(joined, after);
        this.#reach();
        this.changed();
      },
      onLeft: () => this.#left(),
      onChange: () => this.changed(),
    });
  }

  /**
   * Sends a message: at once, or as soon as there is a connection, after all that were sent before it. It stands
   * among the messages from now on.
   *
   * Resolves when the server has stored it. Rejects with a `Refusal` if the server won't (it stays, `failed`), or was
   * discarded; with `Disconnected` if the chat was closed. It need not be awaited.
   */
  readonly send = (content: string, options: SendOptions = {}): Promise<SendAck> => {
    this.#typing.sent();
    return this.#chat.outbox.add({ type: "send_message", conversation_id: this.id, client_id: uuidv7(), content, ...options });
  };

  /** Sends a failed message again, as the newest. */
  readonly retry = (clientId: string): Promise<SendAck> => this.#chat.outbox.retry(clientId);

  /** Forgets a message that failed, or waits. */
  readonly discard = (clientId: string): void => this.#chat.outbox.discard(clientId);

  /** Replaces the content of a message of mine. Rejects with `Refusal` or `Disconnected`. */
  edit(seq: number, content: string): Promise<void> {
    return this.#chat.insist({ type: "edit_message", conversation_id: this.id, seq, content });
  }

  /** Takes a message of mine back, for everybody. Rejects with `Refusal` or `Disconnected`. */
  delete(seq: number): Promise<void> {
    return this.#chat.insist({ type: "delete_message", conversation_id: this.id, seq });
  }

  /** Asks for the page before the first message; nothing if there is none. Rejects with `Refusal` or `Disconnected`. */
  readonly loadOlder = async (): Promise<void> => {
    const before = this.#timeline.messages[0]?.seq;
    if (this.#isLoadingOlder || !this.#timeline.hasOlder || before === undefined) return;
    this.#isLoadingOlder = true;
    this.#timeline.look();
    this.changed();
    try {
      const page = await this.#chat.api.messagesBefore(this.id, before);
      // If the first message is another by now, the page no longer borders on it.
      if (this.#timeline.messages[0]?.seq === before) this.#timeline.addOlder(page.results, page.next_before !== null);
    } finally {
      this.#isLoadingOlder = false;
      this.changed();
    }
  };

  /** I have seen what is held, up to this `seq` if one is given. Told four times a second at most, and only if it is news. */
  readonly markRead = (upTo?: number): void => {
    const seq = this.#timeline.lastSeqOfOthers(this.#me, upTo);
    if (this.#joining.phase === "live" && seq > this.#members.marker(this.#me)) this.#reading.see(seq);
  };

  /** I type, or cleared what I typed. May be called for every key: the others are told every 3 s. */
  readonly setTyping = (isTyping: boolean): void => {
    if (this.#typing.isNews(isTyping)) this.#chat.connection.notify({ type: "typing", conversation_id: this.id, is_typing: isTyping });
  };

  /** Whether it is joined, or is to be. */
  get isJoined(): boolean {
    return this.#joining.isWanted;
  }

  /** @internal A connection was made. */
  connected(): void {
    this.#joining.connected();
  }

  /** @internal The connection is gone: what is shown grows old. */
  disconnected(): void {
    this.#typing.clear();
    this.#reading.reset();
    this.#joining.disconnected();
    this.changed();
  }

  /** @internal I was added, perhaps after a refusal. */
  added(): void {
    this.#joining.again();
  }

  /** @internal An event of its log. */
  handle(event: LogEvent): void {
    if (!this.#joining.accept(event)) return;
    this.#members.take(event);
    if (event.type === "new_message") this.#typing.end(event.sender_id);
    if (event.type === "participant_removed" && event.user_id === this.#me) this.#joining.refuse(new Refusal("forbidden", "You were removed"));
    this.#reach();
    this.changed();
  }

  /** @internal */
  handleTyping(frame: Typing): void {
    if (!this.#joining.isWanted || frame.user_id === this.#me) return;
    this.#typing.hear(frame);
    this.changed();
  }

  /** @internal */
  presence(frame: Presence): void {
    if (!this.#members.presence(frame)) return;
    this.#reach();
    this.changed();
  }

  /** @internal The outbox changed something. */
  override changed(): void {
    // What the log holds is stored, whether or not its answer came.
    for (const { message } of this.#chat.outbox.of(this.id)) {
      const stored = this.#timeline.messages.findLast((it) => it.sender_id === this.#me && it.client_id === message.client_id);
      if (stored) return this.#chat.outbox.settle({ ...stored, duplicate: false });
    }
    super.changed();
    this.#chat.conversations.follow(this);
  }

  /** @internal A message of mine is stored. The log's event follows, or came already; until then this stands in for it. */
  acked(entry: Outgoing, ack: SendAck): void {
    this.#timeline.acked(asMessage(entry, this.#chat.me, ack));
  }

  /** @internal Leaves, and stops every timer. */
  close(): void {
    this.#joining.leave();
  }

  /** @internal Forgets what is held, unless it is joined. */
  forget(): void {
    if (this.#joining.isWanted) return;
    this.#timeline.clear();
    super.changed();
  }

  /** @internal */
  readonly news = (entry: ListedConversation): Partial<ListedConversation> => {
    const { messages, hasOlder } = this.#timeline;
    const last = messages.at(-1);
    const isLive = this.#joining.phase === "live";
    // One that isn't live doesn't know what became of a message since.
    const news = isLive || last?.seq !== entry.last_message?.seq ? withLast(entry, last) : {};
    if (!isLive) return news;
    const me = this.#me;
    const last_read_seq = Math.max(entry.last_read_seq, this.#members.marker(me));
    const unread = messages.filter(({ seq, sender_id, deleted_at }) => seq > last_read_seq && sender_id !== me && !deleted_at).length;
    // More may be unread than is held.
    const isWhole = unread === 0 || !hasOlder || (messages[0]?.seq ?? 0) <= last_read_seq;
    const isOnline = ({ user_id }: Participant) => this.#members.online.has(user_id);
    const { participants } = entry;
    return {
      ...news,
      last_read_seq,
      unread_count: isWhole ? unread : Math.max(unread, entry.unread_count),
      ...(participants.some((it) => it.online !== isOnline(it)) && { participants: participants.map((it) => ({ ...it, online: isOnline(it) })) }),
    };
  };

  protected override watched(isWatched: boolean): void {
    this.#joining.want(isWatched);
  }

  protected makeSnapshot(): ConversationSnapshot {
    const { messages, hasOlder } = this.#timeline;
    const { phase, problem } = this.#joining;
    const { participants, online, markers } = this.#members;
    const { me, outbox, conversations } = this.#chat;
    const others = conversations.get(this.id)?.participants.filter(({ user_id }) => user_id !== me.user_id) ?? [];
    const seenAt = Math.max(0, ...others.map(({ last_seen }) => Date.parse(last_seen ?? "") || 0));
    const audience = { me: me.user_id, readMarkers: markers, delivered: this.#delivered, seenAt };
    return {
      id: this.id,
      phase,
      problem,
      messages: [
        ...messages.map((message) => logged(message, audience)),
        ...outbox.of(this.id).map((entry) => onItsWay(entry, me)),
      ],
      hasOlder,
      isLoadingOlder: this.#isLoadingOlder,
      participants,
      online,
      typing: this.#typing.users,
      readMarkers: markers,
    };
  }

  #left(): void {
    this.#reading.reset();
    this.#typing.clear();
    this.#timeline.shrink();
    this.changed();
    this.#chat.onLeft(this);
  }

  get #me(): string {
    return this.#chat.me.user_id;
  }

  /** Whoever of the others is connected has what is held. */
  #reach(): void {
    for (const id of this.#members.online) if (id !== this.#me) this.#delivered = this.#timeline.held ?? 0;
  }
}
