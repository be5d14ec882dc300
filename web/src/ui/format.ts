/** Times as people say them, in the page's language. */

const LOCALE = navigator.languages.find((language) => language.startsWith("en")) ?? "en-GB";
const DAY_MS = 24 * 3_600_000;

const clockTime = new Intl.DateTimeFormat(LOCALE, { timeStyle: "short" });
const weekday = new Intl.DateTimeFormat(LOCALE, { weekday: "long" });
const shortWeekday = new Intl.DateTimeFormat(LOCALE, { weekday: "short" });
const date = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short" });
const dateWithYear = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "long", year: "numeric" });
const whole = new Intl.DateTimeFormat(LOCALE, { dateStyle: "full", timeStyle: "medium" });

/** "14:02". */
export function time(iso: string): string {
  return clockTime.format(new Date(iso));
}

/** Everything about a moment, for a tooltip. */
export function fullTime(iso: string): string {
  return whole.format(new Date(iso));
}

/** The same for all moments of a local day. */
export function dayKey(iso: string): string {
  return new Date(iso).toDateString();
}

function daysAgo(at: Date, now: Date): number {
  const midnight = (moment: Date) => new Date(moment.getFullYear(), moment.getMonth(), moment.getDate()).getTime();
  // Rounded, as a day may have 23 or 25 hours.
  return Math.round((midnight(now) - midnight(at)) / DAY_MS);
}

/** "Today", "Yesterday", "Monday", "3 November 2025". */
export function day(iso: string, now = new Date()): string {
  const at = new Date(iso);
  const days = daysAgo(at, now);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days < 7 ? weekday.format(at) : dateWithYear.format(at);
}

/** "now", "5 min", "14:02", "Yesterday", "Mon", "3 Nov". */
export function ago(iso: string, now = new Date()): string {
  const at = new Date(iso);
  const minutes = Math.floor((now.getTime() - at.getTime()) / 60_000);
  if (minutes < 1) return "now";
  if (minutes < 60) return `${minutes} min`;
  const days = daysAgo(at, now);
  if (days === 0) return clockTime.format(at);
  if (days === 1) return "Yesterday";
  return days < 7 ? shortWeekday.format(at) : date.format(at);
}

/** Seconds until a moment, at least 1. */
export function secondsUntil(at: number): number {
  return Math.max(1, Math.ceil((at - Date.now()) / 1_000));
}
