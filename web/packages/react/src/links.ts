/** A piece of text, or a link whose text is its very address. */
export type Piece = string | { href: string; text: string };

const CANDIDATE = /\b(?:https?:\/\/|www\.)[^\s<>"`]+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b/giu;
/** Ends a sentence rather than an address. */
const TRAILING = /[.,;:!?'"’”»…*_~]$/u;
/** Invisible characters that turn the direction of what follows: an address with one doesn't read as what it is. */
const DECEIVING = /[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/u;

/**
 * Finds web and mail addresses. Only `http:`, `https:` and `mailto:` become links, and none that pretends to lead
 * elsewhere by a user name before an `@` or by invisible characters.
 */
export function linkify(content: string): Piece[] {
  const pieces: Piece[] = [];
  let end = 0;
  for (const match of content.matchAll(CANDIDATE)) {
    const text = trimmed(match[0]);
    const href = addressOf(text);
    if (href === undefined) continue;
    if (match.index > end) pieces.push(content.slice(end, match.index));
    pieces.push({ href, text });
    end = match.index + text.length;
  }
  if (end < content.length) pieces.push(content.slice(end));
  return pieces;
}

/** The address of a web page that may be linked to; undefined if it may not. */
export function safeHref(address: string): string | undefined {
  if (DECEIVING.test(address)) return undefined;
  try {
    const url = new URL(address);
    const isWeb = url.protocol === "https:" || url.protocol === "http:";
    return isWeb && url.username === "" && url.password === "" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

function addressOf(text: string): string | undefined {
  if (/^https?:/i.test(text)) return safeHref(text);
  if (/^www\./i.test(text)) return /^www\.[^./]+\./i.test(text) ? safeHref(`https://${text}`) : undefined;
  return `mailto:${text}`;
}

/** Without what belongs to the sentence around it. */
function trimmed(text: string): string {
  for (;;) {
    const last = text.at(-1) ?? "";
    const opening = { ")": "(", "]": "[", "}": "{" }[last];
    const isUnbalanced = opening !== undefined && text.split(last).length > text.split(opening).length;
    if (!isUnbalanced && !TRAILING.test(text)) return text;
    text = text.slice(0, -1);
  }
}
