/** The server said no. `code` is stable and the same over REST and WebSocket. */
export class Refusal extends Error {
  override readonly name = "Refusal";

  constructor(
    readonly code: string,
    message: string,
    readonly retryAfterMs?: number,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later. */
  get isTemporary(): boolean {
    return ["rate_limited", "unavailable", "internal"].includes(this.code);
  }
}

/** No answer: the connection is gone, or fell silent. Whether the server did it is not known. */
export class Disconnected extends Error {
  override readonly name = "Disconnected";

  constructor() {
    super("No connection");
  }
}
