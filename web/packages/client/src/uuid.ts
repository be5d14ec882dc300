let last = 0;

/**
 * A UUID of version 7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then random bits. Of two made by the same page
 * the later one sorts after: within a millisecond the time runs ahead.
 *
 * Not `crypto.randomUUID`, which is version 4 and absent on plain HTTP.
 */
export function uuidv7(): string {
  last = Math.max(Date.now(), last + 1);
  return layOut(last, crypto.getRandomValues(new Uint8Array(10)));
}

/** The bits in their places. */
export function layOut(time: number, random: Uint8Array): string {
  const bytes = [...random];
  bytes[0] = ((bytes[0] ?? 0) & 0x0f) | 0x70;
  bytes[2] = ((bytes[2] ?? 0) & 0x3f) | 0x80;
  const hex = time.toString(16).padStart(12, "0") + bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.*)/, "$1-$2-$3-$4-$5");
}
