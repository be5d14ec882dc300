import type { ListedConversation, Participant } from "@partyline/client";

/** A person's name; their id until they were here for the first time. */
export function nameOf({ username, user_id }: { username: string; user_id: string }): string {
  return username || user_id;
}

/** Those who take part besides me. */
export function others<P extends Participant>(participants: readonly P[], me: string): P[] {
  return participants.filter(({ user_id }) => user_id !== me);
}

/** A conversation's title: its own, or who takes part; empty if nobody else does. */
export function titleOf({ title, participants }: Pick<ListedConversation, "title" | "participants">, me: string): string {
  return title || others(participants, me).map(nameOf).join(", ");
}

/** Who, or what, a conversation's picture stands for: always the same tone for the same one. */
export function pictureOf({ id, kind, participants }: Pick<ListedConversation, "id" | "kind" | "participants">, me: string): string {
  return (kind === "direct" && others(participants, me)[0]?.user_id) || id;
}
