const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte"];

/** Times and sums of money as people of one language say them. */
export class Formats {
  private readonly clock: Intl.DateTimeFormat;
  private readonly weekday: Intl.DateTimeFormat;
  private readonly shortWeekday: Intl.DateTimeFormat;
  private readonly date: Intl.DateTimeFormat;
  private readonly longDate: Intl.DateTimeFormat;
  private readonly whole: Intl.DateTimeFormat;
  private readonly relative: Intl.RelativeTimeFormat;

  constructor(readonly locale: string) {
    this.clock = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
    this.weekday = new Intl.DateTimeFormat(locale, { weekday: "long" });
    this.shortWeekday = new Intl.DateTimeFormat(locale, { weekday: "short" });
    this.date = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
    this.longDate = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" });
    this.whole = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });
    this.relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
  }

  /** "14:02". */
  time(iso: string): string {
    return say(this.clock, iso);
  }

  /** Everything about a moment, for a tooltip. */
  fullTime(iso: string): string {
    return say(this.whole, iso);
  }

  /** "14 June 2026", of a moment or of a date without a time. */
  calendarDay(iso: string): string {
    // A date alone is the same date everywhere; `Date` would take it for midnight at Greenwich.
    return say(this.longDate, /^\d{4}-\d{2}-\d{2}$/.test(iso) ? `${iso}T00:00` : iso);
  }

  /** "Today", "Yesterday", "Monday", "3 November 2025". */
  day(iso: string, now = new Date()): string {
    const days = daysAgo(new Date(iso), now);
    if (days <= 0) return capitalised(this.relative.format(0, "day"), this.locale);
    if (days === 1) return capitalised(this.relative.format(-1, "day"), this.locale);
    return say(days < 7 ? this.weekday : this.longDate, iso);
  }

  /** How long ago in a word or two: "now", "5 min", "14:02", "Yesterday", "Mon", "3 Nov". */
  ago(iso: string, now = new Date()): string {
    const at = new Date(iso);
    const minutes = Math.floor((now.getTime() - at.getTime()) / MINUTE_MS);
    if (minutes < 1) return this.relative.format(0, "second");
    if (minutes < 60) return new Intl.NumberFormat(this.locale, { style: "unit", unit: "minute" }).format(minutes);
    const days = daysAgo(at, now);
    if (days === 0) return this.time(iso);
    if (days === 1) return this.day(iso, now);
    return say(days < 7 ? this.shortWeekday : this.date, iso);
  }

  /** When somebody was here, within a sentence: "5 minutes ago", "14:02", "Monday"; undefined within this minute. */
  since(iso: string, now = new Date()): string | undefined {
    const minutes = Math.floor((now.getTime() - new Date(iso).getTime()) / MINUTE_MS);
    if (minutes < 1) return undefined;
    if (minutes < 60) return this.relative.format(-minutes, "minute");
    const days = daysAgo(new Date(iso), now);
    if (days === 0) return this.time(iso);
    return days === 1 ? this.relative.format(-1, "day") : this.day(iso, now);
  }

  /** "£5,240.00"; the bare number if there is no such currency. */
  money(amount: number, currency: string | undefined): string {
    try {
      return new Intl.NumberFormat(this.locale, currency === undefined ? {} : { style: "currency", currency }).format(amount);
    } catch {
      return `${new Intl.NumberFormat(this.locale).format(amount)} ${currency}`;
    }
  }

  /** "2.4 MB". */
  size(bytes: number): string {
    const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
    const format = { style: "unit", unit: UNITS[power] ?? "byte", maximumFractionDigits: 1 } as const;
    return new Intl.NumberFormat(this.locale, format).format(bytes / 1_000 ** power);
  }
}

/** The same for all moments of a local day. */
export function dayKey(iso: string): string {
  return new Date(iso).toDateString();
}

/** Seconds until a moment in Unix milliseconds, at least 1. */
export function secondsUntil(at: number, now = Date.now()): number {
  return Math.max(1, Math.ceil((at - now) / 1_000));
}

/** What is no date is shown as it came. */
function say(format: Intl.DateTimeFormat, iso: string): string {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : format.format(at);
}

function daysAgo(at: Date, now: Date): number {
  const midnight = (moment: Date) => new Date(moment.getFullYear(), moment.getMonth(), moment.getDate()).getTime();
  // Rounded, as a day may have 23 or 25 hours.
  return Math.round((midnight(now) - midnight(at)) / DAY_MS);
}

function capitalised(text: string, locale: string): string {
  return text.charAt(0).toLocaleUpperCase(locale) + text.slice(1);
}
