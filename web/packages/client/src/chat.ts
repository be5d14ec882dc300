import { Api } from "./api.ts";
import { Connection, type ConnectionState, type TokenProvider } from "./connection.ts";
import { Conversation } from "./conversation.ts";
import { Refusal } from "./errors.ts";
import { Conversations } from "./list.ts";
import { Outbox, type Queue } from "./outbox.ts";
import { Observable, tell } from "./store.ts";
import { watchSurroundings } from "./surroundings.ts";
import { type Dial, webSocketDial } from "./transport.ts";
import type { Command, ConversationUpdated, Limits, LogEvent, ServerFrame, User, Welcome } from "./wire.ts";

export interface ChatOptions {
  /** Where the gateway is: `https://chat.example.com/`; in a page also relative to it. */
  url: string | URL;
  /** Gives tokens: called before every connection, and again before one ends. */
  token: TokenProvider;
  /** Messages of a conversation that are held in memory, besides older pages that were asked for: 100. */
  historyLimit?: number;
  /** Keeps unsent messages over the end of the page: `indexedDbQueue` of `@partyline/client/indexeddb`. */
  queue?: Queue;
  /** How sockets are opened: `sharedBetweenTabs` of `@partyline/client/tabs`; a WebSocket of its own unless given. */
  transport?: (url: string) => Dial;
  /** An edit or a deletion has to wait; it is tried again at `retryAt`, in Unix milliseconds. */
  onWait?(refusal: Refusal, retryAt: number): void;
}

/** What is true of the whole chat. */
export interface ChatSnapshot {
  readonly connection: ConnectionState;
  /** Who I am, as the server says; undefined before the first connection. */
  readonly me: User | undefined;
  /** The limits in force; undefined before the first connection. */
  readonly limits: Limits | undefined;
  /** How many messages wait to be sent. */
  readonly pending: number;
}

/** Before the server said who I am. */
const NOBODY: User = { user_id: "", username: "", user_type: "" };
/** How often an edit or a deletion is tried. */
const ATTEMPTS = 4;
/** Conversations that nobody watches keep their messages, up to this many. */
const KEPT = 20;

/** A person's chat: see `Chat`. Nothing is done before `connect`. */
export function createChat(options: ChatOptions): Chat {
  return new Chat(options);
}

/** A person's chat: the way to the server, the list of conversations, and each conversation. */
export class Chat extends Observable<ChatSnapshot> {
  /** My conversations. */
  readonly conversations: Conversations;
  /** @internal */
  readonly connection: Connection;
  /** @internal */
  readonly api: Api;
  /** @internal */
  readonly outbox: Outbox;
  /** @internal */
  readonly historyLimit: number;
  /** @internal Who I am: `NOBODY` before the first connection. */
  me = NOBODY;
  readonly #opened = new Map<string, Conversation>();
  readonly #listeners = new Set<(frame: ServerFrame) => void>();
  readonly #onWait: ChatOptions["onWait"];
  #limits: Limits | undefined;
  #ignoreSurroundings = () => {};

  constructor({ url, token, queue, onWait, historyLimit = 100, transport = webSocketDial }: ChatOptions) {
    super();
    const base = baseOf(url);
    const socketUrl = new URL("ws", base);
    socketUrl.protocol = socketUrl.protocol.replace("http", "ws");
    this.historyLimit = historyLimit;
    this.#onWait = onWait;
    let held: string | undefined;
    const ask: TokenProvider = async (rejected) => (held = await token(rejected));
    // REST goes on with the connection's token: whoever gives tokens isn't asked for every page.
    this.api = new Api(new URL("chat/api/", base).href, async (rejected) => (held !== undefined && held !== rejected ? held : ask(rejected)));
    this.conversations = new Conversations(this.api, () => this.me.user_id, () => this.#opened.values());
    this.connection = new Connection({
      dial: transport(socketUrl.href),
      token: ask,
      isAccepted: (it) => this.api.isAccepted(it),
      onState: (state) => this.#stateChanged(state),
      onWelcome: (welcome) => this.#welcomed(welcome),
      onFrame: (frame) => this.#handle(frame),
    });
    this.outbox = new Outbox({
      connection: this.connection,
      queue,
      // A server that tells a burst reads later what comes too fast.
      framesPerSecond: () => (this.#limits?.frames_burst ? 0 : (this.#limits?.frames_per_second ?? 0)),
      onChange: (id) => {
        this.#opened.get(id)?.changed();
        this.changed();
      },
      onSent: (sent, ack) => this.#opened.get(sent.message.conversation_id)?.acked(sent, ack),
    });
  }

  /** Connects, and stays connected until `close`; also again, after it ended. */
  readonly connect = (): void => {
    this.#ignoreSurroundings();
    const { connection } = this;
    this.#ignoreSurroundings = watchSurroundings(
      () => connection.wake(),
      () => connection.use(),
    );
    this.connection.start();
  };

  /** Ends everything: the chat can't be used any more. Messages that wait are lost, unless a queue keeps them. */
  readonly close = (): void => {
    this.#ignoreSurroundings();
    for (const conversation of this.#opened.values()) conversation.close();
    this.conversations.stop();
    this.connection.stop();
    this.outbox.stop();
  };

  /**
   * There may be a network again, or somebody uses the chat: tries now, unless the server asked to wait. Browsers' own
   * signs are seen to.
   */
  readonly wake = (): void => {
    this.connection.use();
    this.connection.wake();
  };

  /** A conversation, always the same object for the same id. It is joined while somebody watches it. */
  readonly conversation = (id: string): Conversation => {
    const held = this.#opened.get(id);
    if (held) return held;
    const conversation = new Conversation(id, this);
    this.#opened.set(id, conversation);
    return conversation;
  };

  /** Finds or creates the conversation with somebody. Resolves to its id; rejects with `Refusal` or `Disconnected`. */
  async startDirect(userId: string): Promise<string> {
    return this.#start([userId], "direct", null);
  }

  /** Creates a group. Resolves to its id; rejects with `Refusal` or `Disconnected`. */
  async startGroup(userIds: string[], title: string | null = null): Promise<string> {
    return this.#start(userIds, "group", title);
  }

  /** Calls `listener` with every event of the server, after it was taken in, until the returned function is called. */
  readonly onEvent = (listener: (frame: ServerFrame) => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  protected makeSnapshot(): ChatSnapshot {
    return { connection: this.connection.state, me: this.me === NOBODY ? undefined : this.me, limits: this.#limits, pending: this.outbox.pending };
  }

  async #start(participantIds: string[], kind: "direct" | "group", title: string | null): Promise<string> {
    const conversation = await this.api.create(participantIds, kind, title);
    this.conversations.put(conversation);
    return conversation.id;
  }

  /** @internal Sends an edit or a deletion; again, when the server says when. */
  async insist(command: Command): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.connection.request(command);
        return;
      } catch (error) {
        if (attempt === ATTEMPTS || !(error instanceof Refusal) || error.retryAfterMs === undefined) throw error;
        const delay = error.retryAfterMs;
        this.#onWait?.(error, Date.now() + delay);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  /** @internal Of those that nobody watches only the last ones keep what they hold. */
  onLeft(left: Conversation): void {
    this.#opened.delete(left.id);
    this.#opened.set(left.id, left);
    const unwatched = [...this.#opened.values()].filter(({ isJoined }) => !isJoined);
    for (const conversation of unwatched.slice(0, -KEPT)) conversation.forget();
  }

  #stateChanged(state: ConnectionState): void {
    if (state.kind !== "online") for (const conversation of this.#opened.values()) conversation.disconnected();
    this.changed();
  }

  #welcomed({ user, limits }: Welcome): void {
    this.me = user;
    this.#limits = limits;
    // First what others said, then what is still to be said.
    for (const conversation of this.#opened.values()) conversation.connected();
    this.outbox.connected();
    void this.conversations.load();
    this.changed();
  }

  #handle(frame: ServerFrame): void {
    if ("prev_seq" in frame) {
      this.#logged(frame);
    } else if (frame.type === "typing") {
      this.#opened.get(frame.conversation_id)?.handleTyping(frame);
    } else if (frame.type === "presence") {
      this.conversations.presence(frame);
      for (const conversation of this.#opened.values()) conversation.presence(frame);
    } else if (frame.type === "conversation_updated") {
      this.#updated(frame);
    }
    tell(this.#listeners, frame);
  }

  #logged(event: LogEvent): void {
    const conversation = this.#opened.get(event.conversation_id);
    if (conversation?.isJoined) conversation.handle(event);
    else this.conversations.overhear(event);
  }

  #updated(frame: ConversationUpdated): void {
    const conversation = this.#opened.get(frame.conversation_id);
    const isOpen = conversation?.isJoined ?? false;
    // An open one is told by its own events; news of it may have crossed its join.
    if (!isOpen || frame.reason === "added" || frame.reason === "removed") this.conversations.update(frame);
    // It may have been refused until now.
    if (isOpen && frame.reason === "added") conversation?.added();
  }
}

/** An address below which the gateway's paths are. */
function baseOf(url: string | URL): URL {
  const page = (globalThis as { document?: { baseURI: string } }).document?.baseURI;
  const base = new URL(url, page);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}
