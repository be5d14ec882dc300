import type { Message } from "@partyline/client";
import { safeHref } from "./links.ts";

/** `metadata` of a message of type `quote`: an offer with its price. */
export interface Quote {
  title?: string;
  /** In the currency's main unit: 5240 is £5,240.00. */
  amount?: number;
  /** ISO 4217: "GBP". */
  currency?: string;
  /** A date, or a moment. */
  valid_until?: string;
  items?: { label: string; amount?: number }[];
}

/** `metadata` of a message of type `booking_update`. */
export interface Booking {
  title?: string;
  /** "confirmed", "pending", "cancelled", or a word of your own. */
  status?: string;
  /** Dates, or moments. */
  starts_at?: string;
  ends_at?: string;
  reference?: string;
}

/** `metadata` of a message of type `file`. */
export interface FileLink {
  /** Only `http:` and `https:`. */
  url?: string;
  name?: string;
  /** In bytes. */
  size?: number;
}

type Metadata = Message["metadata"];

/** What others wrote is not to be trusted to have the right shape: whatever hasn't is left out. */
export function quoteOf(metadata: Metadata): Quote {
  const items = Array.isArray(metadata.items) ? metadata.items.flatMap(itemOf) : [];
  return defined({
    title: text(metadata.title),
    amount: amount(metadata.amount),
    currency: text(metadata.currency),
    valid_until: text(metadata.valid_until),
    items: items.length > 0 ? items : undefined,
  });
}

export function bookingOf(metadata: Metadata): Booking {
  return defined({
    title: text(metadata.title),
    status: text(metadata.status),
    starts_at: text(metadata.starts_at),
    ends_at: text(metadata.ends_at),
    reference: text(metadata.reference),
  });
}

export function fileOf(metadata: Metadata): FileLink {
  const url = text(metadata.url);
  return defined({
    url: url === undefined ? undefined : safeHref(url),
    name: text(metadata.name),
    size: amount(metadata.size),
  });
}

function itemOf(item: unknown): { label: string; amount?: number }[] {
  if (typeof item !== "object" || item === null) return [];
  const { label, amount: price } = item as Record<string, unknown>;
  const name = text(label);
  return name === undefined ? [] : [defined({ label: name, amount: amount(price) })];
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value.trim() !== "" ? value : undefined;
}

/** Sums come as numbers, or as the decimal strings of a ledger. */
function amount(value: unknown): number | undefined {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}

/** Without what is undefined. */
function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, held]) => held !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}
