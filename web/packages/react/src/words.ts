/** Everything that the parts say by themselves. Give your own, with a `locale`, to speak another language. */
export interface Words {
  connected: string;
  connecting: string;
  noConnection: string;
  disconnected: string;
  retryingIn(seconds: number): string;
  tryNow: string;
  signInEnded: string;
  signInAgain: string;
  closedByServer(why: string): string;
  connectAgain: string;
  replaced: string;

  conversations: string;
  noConversations: string;
  noMatch: string;
  searching: string;
  noMessages: string;
  showMore: string;
  search: string;
  all: string;
  unread: string;
  unreadCount(count: number): string;
  unreadAtLeast(count: number): string;
  toFirstUnread: string;
  markAsRead: string;
  onlyYou: string;
  chooseConversation: string;
  back: string;

  online: string;
  offline: string;
  lastSeen(when: string): string;
  justNow: string;
  onlineOf(online: number, all: number): string;
  typing: string;
  typingNames(names: string[]): string;

  conversation: string;
  messages: string;
  loading: string;
  loadingOlder: string;
  begins: string;
  olderFailed: string;
  tryAgain: string;
  newMessages: string;
  newCount(count: number): string;
  toNewest: string;
  toNewestOf(count: number): string;

  you: string;
  /** Before what somebody said, or I said, in a line. */
  said(name: string): string;
  edited: string;
  deleted: string;
  sending: string;
  waitingForConnection: string;
  tooMany: string;
  notStored: string;
  retryIn(reason: string, seconds: number): string;
  sent: string;
  delivered: string;
  read: string;
  readBy(count: number, all: number): string;
  notSent(reason: string): string;
  unknownReason: string;
  discard: string;
  editOrDelete: string;
  edit: string;
  delete: string;
  deleteForEverybody: string;

  message: string;
  send: string;
  editing: string;
  cancel: string;

  quote: string;
  validUntil(day: string): string;
  total: string;
  booking: string;
  bookingStatus(status: string): string;
  file: string;
  opensInNewTab: string;
  makeQuote: string;
  quoteTitle: string;
  amountIn(currency: string): string;
  validUntilLabel: string;
  sendQuote: string;

  close: string;
  failed: string;
  failedOffline: string;
  retryAfter(reason: string, seconds: number): string;
}

export const english: Words = {
  connected: "Connected",
  connecting: "Connecting…",
  noConnection: "No connection",
  disconnected: "Disconnected",
  retryingIn: (seconds) => `No connection. Trying again in ${seconds} s.`,
  tryNow: "Try now",
  signInEnded: "Your sign-in has ended.",
  signInAgain: "Sign in again",
  closedByServer: (why) => `The server closed the connection (${why}).`,
  connectAgain: "Connect again",
  replaced: "The chat is open in too many other places. It goes on here when you use this page.",

  conversations: "Conversations",
  noConversations: "No conversations yet.",
  noMatch: "Nothing found.",
  searching: "Searching…",
  noMessages: "No messages yet",
  showMore: "Show more",
  search: "Search",
  all: "All",
  unread: "Unread",
  unreadCount: (count) => `${count} unread`,
  unreadAtLeast: (count) => `${count}+ unread`,
  toFirstUnread: "To the first",
  markAsRead: "Mark as read",
  onlyYou: "Only you",
  chooseConversation: "Choose a conversation.",
  back: "Back to the conversations",

  online: "online",
  offline: "offline",
  lastSeen: (when) => `last seen ${when}`,
  justNow: "just now",
  onlineOf: (online, all) => `${online} of ${all} online`,
  typing: "typing…",
  typingNames: (names) => (names.length > 2 ? "several people are typing…" : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing…`),

  conversation: "Conversation",
  messages: "Messages",
  loading: "Loading…",
  loadingOlder: "Loading older messages…",
  begins: "The conversation begins here.",
  olderFailed: "Older messages could not be loaded.",
  tryAgain: "Try again",
  newMessages: "New messages",
  newCount: (count) => `${count} new`,
  toNewest: "To the newest message",
  toNewestOf: (count) => `${count} new messages: to the end`,

  you: "You",
  said: (name) => `${name}: `,
  edited: "edited",
  deleted: "Message deleted",
  sending: "Sending…",
  waitingForConnection: "Waiting for a connection",
  tooMany: "Too many messages",
  notStored: "Not stored yet",
  retryIn: (reason, seconds) => `${reason}: trying again in ${seconds} s`,
  sent: "Sent",
  delivered: "Delivered",
  read: "Read",
  readBy: (count, all) => `Read by ${count} of ${all}`,
  notSent: (reason) => `Not sent: ${reason}`,
  unknownReason: "unknown reason",
  discard: "Discard",
  editOrDelete: "Edit or delete",
  edit: "Edit",
  delete: "Delete",
  deleteForEverybody: "Delete for everybody?",

  message: "Message",
  send: "Send",
  editing: "Editing a message",
  cancel: "Cancel",

  quote: "Quote",
  validUntil: (day) => `Valid until ${day}`,
  total: "Total",
  booking: "Booking",
  bookingStatus: (status) => capitalised(status.replaceAll("_", " ")),
  file: "File",
  opensInNewTab: "opens in a new tab",
  makeQuote: "Make a quote",
  quoteTitle: "What for",
  amountIn: (currency) => `Amount (${currency})`,
  validUntilLabel: "Valid until",
  sendQuote: "Send the quote",

  close: "Close",
  failed: "That did not work.",
  failedOffline: "No connection: try again when it is back.",
  retryAfter: (reason, seconds) => `${reason}. Try again in ${seconds} s.`,
};

function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
