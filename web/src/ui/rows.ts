import type { Conversation, Message, Outgoing } from "@partyline/client";
import { dayKey } from "./format.ts";

/** Messages of one sender within this time stand together. */
const GROUP_MS = 5 * 60_000;

export type Delivery = "sending" | "waiting" | "failed" | "sent" | "read";

/** A message as it is shown: of the log, or on its way. */
export interface MessageRow {
  kind: "message";
  key: string;
  isMine: boolean;
  senderId: string;
  sender: string;
  content: string;
  at: string;
  /** First and last of a group. */
  isFirst: boolean;
  isLast: boolean;
  /** Of the log; undefined while on its way. */
  message: Message | undefined;
  /** What this one answers, as far as it is loaded. */
  answers: Message | undefined;
  outgoing: Outgoing | undefined;
  /** Of my own messages. */
  delivery: Delivery | undefined;
  /** How many of the others have read my message. */
  readers: number;
}

export type Row = MessageRow | { kind: "day"; key: string; at: string };

/** What the log of a conversation shows, in order: days, messages, and what is on its way. */
export function rows(conversation: Conversation, outgoing: Outgoing[], me: string): Row[] {
  const { timeline, readMarkers } = conversation;
  const markers = [...readMarkers].filter(([user]) => user !== me).map(([, seq]) => seq);
  const messages = [
    ...timeline.messages.map((message) => logged(message, conversation, markers, me)),
    ...outgoing.map((entry) => onItsWay(entry, me)),
  ];
  const shown: Row[] = [];
  messages.forEach((row, index) => {
    const before = messages[index - 1];
    const after = messages[index + 1];
    if (!before || dayKey(before.at) !== dayKey(row.at)) shown.push({ kind: "day", key: `day:${dayKey(row.at)}`, at: row.at });
    row.isFirst = !before || !belongTogether(before, row);
    row.isLast = !after || !belongTogether(row, after);
    shown.push(row);
  });
  return shown;
}

function logged(message: Message, { timeline }: Conversation, markers: number[], me: string): MessageRow {
  const isMine = message.sender_id === me;
  const readers = markers.filter((seq) => seq >= message.seq).length;
  return {
    kind: "message",
    key: keyOf(message.sender_id, message.client_id),
    isMine,
    senderId: message.sender_id,
    sender: message.sender_username || message.sender_id,
    content: message.content,
    at: message.created_at,
    isFirst: true,
    isLast: true,
    message,
    answers: message.reply_to === null ? undefined : timeline.find(message.reply_to),
    outgoing: undefined,
    delivery: isMine ? (readers > 0 ? "read" : "sent") : undefined,
    readers,
  };
}

function onItsWay(outgoing: Outgoing, me: string): MessageRow {
  const delivery = outgoing.state === "failed" ? "failed" : outgoing.retryAt === undefined ? "sending" : "waiting";
  return {
    kind: "message",
    key: keyOf(me, outgoing.client_id),
    isMine: true,
    senderId: me,
    sender: "",
    content: outgoing.content,
    at: outgoing.created_at,
    isFirst: true,
    isLast: true,
    message: undefined,
    answers: undefined,
    outgoing,
    delivery,
    readers: 0,
  };
}

/** The same before and after the server knows the message, so that it stays the same element. */
function keyOf(senderId: string, clientId: string): string {
  return `${senderId} ${clientId}`;
}

function belongTogether(a: MessageRow, b: MessageRow): boolean {
  const isPlain = (row: MessageRow) => row.message?.message_type !== "system";
  const gap = Math.abs(Date.parse(b.at) - Date.parse(a.at));
  return a.senderId === b.senderId && gap < GROUP_MS && dayKey(a.at) === dayKey(b.at) && isPlain(a) && isPlain(b);
}
