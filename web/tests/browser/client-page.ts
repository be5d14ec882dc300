/**
 * A page of nothing but the client, for tests that look at what it does rather than at how a page shows it. Its address
 * says whose it is and what it uses: `?user=…&conversation=…&tabs&queue`. Built and served by `client-window.ts`.
 */
import { type Chat, type ChatOptions, type Conversation, createChat } from "@partyline/client";
import { indexedDbQueue } from "@partyline/client/indexeddb";
import { sharedBetweenTabs } from "@partyline/client/tabs";

declare global {
  interface Window {
    chat: Chat;
    conversation: Conversation;
    /** Another chat, after the one before was closed. */
    begin(): void;
    /** Contents of what `send` was told to be stored, in that order. */
    stored: string[];
  }
}

const address = new URLSearchParams(location.search);
const user = address.get("user") ?? "";

const options: ChatOptions = {
  url: "/",
  async token(rejected) {
    const response = await fetch("/client/token", { method: "POST", body: rejected ?? "" });
    if (!response.ok) throw new Error(`No token: ${response.status}`);
    return response.text();
  },
  ...(address.has("tabs") && { transport: sharedBetweenTabs({ user }) }),
  ...(address.has("queue") && { queue: indexedDbQueue({ user }) }),
};

window.stored = [];
window.begin = () => {
  window.chat = createChat(options);
  window.conversation = window.chat.conversation(address.get("conversation") ?? "");
  window.conversation.subscribe(() => {});
  window.chat.connect();
};
window.begin();
