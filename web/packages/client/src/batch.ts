import type { Command, Welcome } from "./wire.ts";

/** Conversations in one frame, as many as the server takes. */
const MOST = 80;

/**
 * Joins that are sent at one moment, as after a reconnection, become one frame, if the server takes that. Each is
 * answered by itself, under its own `ref`: nothing above the socket sees a difference.
 */
export function batchJoins(send: (text: string) => void) {
  let joins: { conversation_id: string }[] = [];
  let isSupported = false;
  const flush = () => {
    if (joins.length > 1) send(JSON.stringify({ type: "join_conversations", conversations: joins } satisfies Command));
    else if (joins[0]) send(JSON.stringify({ type: "join_conversation", ...joins[0] }));
    joins = [];
  };
  return {
    /** A frame of the server: the first one tells what it can do. */
    hear(text: string): void {
      if (text.startsWith('{"type":"welcome"')) isSupported = !!(JSON.parse(text) as Welcome).features?.includes("join_conversations");
    },
    /** Sends a frame, in its place among the others. */
    send(text: string): void {
      const isJoin = isSupported && text.startsWith('{"type":"join_conversation",');
      if (!isJoin || joins.length === MOST) flush();
      if (!isJoin) return send(text);
      const { type, ...join } = JSON.parse(text) as Extract<Command, { type: "join_conversation" }>;
      if (joins.push(join) === 1) queueMicrotask(flush);
    },
  };
}
