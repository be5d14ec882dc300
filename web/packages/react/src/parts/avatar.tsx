const TONES = 6;

export interface AvatarProps {
  /** Of a person or a conversation: the same one always has the same tone. */
  id: string;
  name: string;
  /** A dot shows that they are here. */
  isOnline?: boolean;
  /** What the dot says to those who don't see it. */
  onlineLabel?: string;
}

/** A round picture of somebody's initial. */
export function Avatar({ id, name, isOnline = false, onlineLabel }: AvatarProps) {
  return (
    <span className="pl-picture">
      <span className="pl-avatar" data-tone={toneOf(id)} aria-hidden="true">
        {(Array.from(name.trim())[0] ?? "?").toUpperCase()}
      </span>
      {isOnline && <span className="pl-dot" role="img" aria-label={onlineLabel} aria-hidden={onlineLabel === undefined} />}
    </span>
  );
}

function toneOf(id: string): number {
  return Array.from(id).reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) >>> 0, 7) % TONES;
}
