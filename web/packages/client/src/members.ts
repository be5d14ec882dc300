import type { Joined, LogEvent, Participant, Presence } from "./wire.ts";

/** Who takes part in a conversation, who of them is connected, and how far each has read. */
export class Members {
  participants: readonly Participant[] = [];
  online: ReadonlySet<string> = new Set();
  /** The last `seq` read, by user id. */
  markers: ReadonlyMap<string, number> = new Map();

  /** `after`: the last `seq` held when it was asked for. */
  join({ participants, online, read_markers }: Joined, after: number | undefined): void {
    this.participants = participants;
    this.online = new Set(online);
    // A node that knows less than the one before moves nobody back; a join that follows nothing may.
    this.markers = new Map(Object.entries(read_markers).map(([user, seq]) => [user, after ? Math.max(this.marker(user), seq) : seq]));
  }

  take(event: LogEvent): void {
    if (event.type === "read") {
      this.markers = new Map(this.markers).set(event.user_id, Math.max(this.marker(event.user_id), event.last_read_seq));
    } else if (event.type === "new_message") {
      // Who sends has read what came before; no marker lies beyond the newest event.
      this.markers = new Map(this.markers).set(event.sender_id, event.seq);
    } else if (event.type === "participant_added") {
      const { user_id } = event.participant;
      this.#without(user_id, event.participant);
      // Whoever is added has read everything before.
      this.markers = new Map(this.markers).set(user_id, Math.max(this.marker(user_id), event.seq));
    } else if (event.type === "participant_removed") {
      this.#without(event.user_id);
    }
  }

  /** False if it is about somebody else. */
  presence({ user_id, online }: Presence): boolean {
    const set = new Set(this.online);
    if (online) set.add(user_id);
    else set.delete(user_id);
    this.online = set;
    return this.participants.some((it) => it.user_id === user_id);
  }

  marker(userId: string): number {
    return this.markers.get(userId) ?? 0;
  }

  #without(userId: string, ...instead: Participant[]): void {
    this.participants = [...this.participants.filter(({ user_id }) => user_id !== userId), ...instead];
  }
}
