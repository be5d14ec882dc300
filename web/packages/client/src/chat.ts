import { Api } from "./api.ts";
import { Connection, type ConnectionState, type TokenSource } from "./connection.ts";
import { Conversation } from "./conversation.ts";
import { Refusal } from "./errors.ts";
import { ConversationList } from "./list.ts";
import { type Outgoing, Outbox } from "./outbox.ts";
import type { Dial } from "./transport.ts";
import type { Ack, Command, ConversationUpdated, Limits, Reply, ServerFrame, User, Welcome } from "./wire.ts";

export interface ChatOptions {
  dial: Dial;
  /** Where the REST part is: ends in `/chat/api/`. */
  apiUrl: string;
  tokens: TokenSource;
  /** Something that is shown may have changed. */
  onChange(): void;
  /** An edit or a deletion has to wait; it is tried again at `retryAt`, in Unix milliseconds. */
  onWait(refusal: Refusal, retryAt: number): void;
}

/** How often an edit or a deletion is tried. */
const ATTEMPTS = 4;

/** A person's chat: the list of conversations, those that were opened, and the way to the server. No DOM. */
export class Chat {
  readonly api: Api;
  readonly list: ConversationList;
  readonly outbox: Outbox;
  /** Who I am, as the server says; undefined before the first `welcome`. */
  me: User | undefined;
  limits: Limits | undefined;
  /** The conversation that is open. */
  active: Conversation | undefined;
  private readonly connection: Connection;
  private readonly opened = new Map<string, Conversation>();

  constructor(private readonly options: ChatOptions) {
    this.api = new Api(options.apiUrl, options.tokens);
    this.list = new ConversationList(this.api, () => {
      // What the list tells of the open conversation may be older than what its own events told.
      if (this.active) this.list.follow(this.active);
      options.onChange();
    });
    this.connection = new Connection({
      dial: options.dial,
      tokens: options.tokens,
      isAccepted: (token) => this.api.isAccepted(token),
      onState: (state) => this.stateChanged(state),
      onWelcome: (welcome) => this.welcomed(welcome),
      onFrame: (frame) => this.handle(frame),
    });
    this.outbox = new Outbox({
      request: (command) => this.connection.request(command),
      framesPerSecond: () => this.limits?.frames_per_second ?? 0,
      onChange: () => options.onChange(),
      onSent: (sent, ack) => this.sent(sent, ack),
    });
  }

  get connectionState(): ConnectionState {
    return this.connection.state;
  }

  /** Connects; also again, after it ended. */
  start(): void {
    this.connection.start();
  }

  stop(): void {
    this.active?.close();
    this.outbox.stop();
    this.list.stop();
    this.connection.stop();
  }

  /** There may be a network again, or somebody looks. */
  wake(): void {
    this.connection.wake();
  }

  /** Joins a conversation, and leaves the one that was open. */
  open(id: string): Conversation {
    if (this.active?.id === id) return this.active;
    this.active?.close();
    let conversation = this.opened.get(id);
    if (!conversation) {
      conversation = new Conversation(id, {
        me: () => this.me?.user_id ?? "",
        api: this.api,
        request: (command, onReply) => this.connection.request(command, onReply),
        notify: (command) => this.connection.notify(command),
        onChange: () => this.conversationChanged(id),
      });
      this.opened.set(id, conversation);
    }
    this.active = conversation;
    conversation.open();
    this.options.onChange();
    return conversation;
  }

  /** Leaves the conversation that is open. */
  close(): void {
    this.active?.close();
    this.active = undefined;
    this.options.onChange();
  }

  /** Finds or creates the conversation with somebody. */
  async startDirect(userId: string): Promise<string> {
    const conversation = await this.api.createDirect(userId);
    this.list.put(conversation);
    return conversation.id;
  }

  send(content: string): void {
    if (!this.active) return;
    this.active.sent();
    this.outbox.add(this.active.id, content);
  }

  edit(conversationId: string, seq: number, content: string): Promise<Reply> {
    return this.insist({ type: "edit_message", conversation_id: conversationId, seq, content });
  }

  delete(conversationId: string, seq: number): Promise<Reply> {
    return this.insist({ type: "delete_message", conversation_id: conversationId, seq });
  }

  /** Asks again when the server says when. */
  private async insist(command: Command): Promise<Reply> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.connection.request(command);
      } catch (error) {
        if (attempt === ATTEMPTS || !(error instanceof Refusal) || error.retryAfterMs === undefined) throw error;
        const delay = error.retryAfterMs;
        this.options.onWait(error, Date.now() + delay);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  private stateChanged(state: ConnectionState): void {
    if (state.kind !== "online") this.active?.disconnected();
    this.options.onChange();
  }

  private welcomed({ user, limits }: Welcome): void {
    this.me = user;
    this.limits = limits;
    this.list.me = user.user_id;
    // First what others said, then what is still to be said.
    this.active?.connected();
    this.outbox.pump();
    void this.list.load();
    this.options.onChange();
  }

  private handle(frame: ServerFrame): void {
    switch (frame.type) {
      case "new_message":
      case "message_edited":
      case "message_deleted":
      case "read":
      case "participant_added":
      case "participant_removed":
        return this.opened.get(frame.conversation_id)?.handle(frame);
      case "typing":
        return this.opened.get(frame.conversation_id)?.handleTyping(frame);
      case "presence":
        for (const { online } of this.opened.values()) {
          if (frame.online) online.add(frame.user_id);
          else online.delete(frame.user_id);
        }
        this.list.presence(frame);
        return this.options.onChange();
      case "conversation_updated":
        return this.updated(frame);
    }
  }

  private updated(frame: ConversationUpdated): void {
    // The open one is told by its own events; news of it may have crossed its join.
    if (this.active?.id !== frame.conversation_id || frame.reason === "added" || frame.reason === "removed") {
      void this.list.update(frame);
    }
    // It may have been refused until now.
    if (this.active?.id === frame.conversation_id && frame.reason === "added") this.active.open();
  }

  private conversationChanged(id: string): void {
    const conversation = this.opened.get(id);
    if (!conversation) return;
    const { timeline } = conversation;
    // What the log holds is stored, whether or not its answer came.
    const unanswered = this.outbox.of(id);
    if (unanswered.length > 0) {
      const stored = new Set(timeline.messages.filter(({ sender_id }) => sender_id === this.me?.user_id).map((it) => it.client_id));
      unanswered.filter(({ client_id }) => stored.has(client_id)).forEach(({ client_id }) => this.outbox.remove(client_id));
    }
    this.list.follow(conversation);
    this.options.onChange();
  }

  private sent(sent: Outgoing, ack: Ack): void {
    const conversation = this.opened.get(sent.conversation_id);
    const { me } = this;
    if (conversation && me && ack.seq !== undefined) {
      conversation.timeline.acked({ seq: ack.seq }, {
        conversation_id: sent.conversation_id,
        seq: ack.seq,
        prev_seq: 0,
        message_id: ack.message_id ?? "",
        client_id: sent.client_id,
        sender_id: me.user_id,
        sender_username: me.username,
        sender_type: me.user_type,
        content: sent.content.trim(),
        message_type: "text",
        metadata: {},
        reply_to: null,
        created_at: ack.created_at ?? sent.created_at,
      });
    }
    this.conversationChanged(sent.conversation_id);
    this.options.onChange();
  }
}
