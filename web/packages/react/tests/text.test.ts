import { describe, expect, test } from "vitest";
import { dayKey, Formats } from "../src/format.ts";
import { linkify } from "../src/links.ts";
import { bookingOf, fileOf, quoteOf } from "../src/metadata.ts";

describe("links", () => {
  const hrefs = (content: string) => linkify(content).flatMap((piece) => (typeof piece === "string" ? [] : [piece.href]));

  test.each([
    ["See https://example.org/a?b=c#d, please.", ["https://example.org/a?b=c#d"]],
    ["(www.example.org/x_(y))", ["https://www.example.org/x_(y)"]],
    ["<https://example.org>; https://example.org/é!", ["https://example.org/", "https://example.org/%C3%A9"]],
    ["write to casey+chat@example.co.uk.", ["mailto:casey+chat@example.co.uk"]],
    ["javascript:alert(1) data:text/html,x file:///etc ftp://a.b vbscript:x", []],
    ["https://bank.example@evil.example/ https://a:b@evil.example", []],
    ["https://bank.example/\u202egnp.exe", []],
    ["https:// http://[ www.nothing", []],
  ])("%s", (content, expected) => {
    expect(hrefs(content)).toEqual(expected);
  });

  test("lose nothing of the text, and read as where they lead", () => {
    const content = "a https://example.org/1. b (https://example.org/2) c@d.example!";
    const pieces = linkify(content);
    expect(pieces.map((piece) => (typeof piece === "string" ? piece : piece.text)).join("")).toBe(content);
    expect(pieces.filter((piece) => typeof piece !== "string")).toHaveLength(3);
  });
});

describe("times", () => {
  const formats = new Formats("en-GB");
  const now = new Date(2026, 5, 14, 18, 30);
  const before = (minutes: number) => new Date(now.getTime() - minutes * 60_000).toISOString();

  test("are told by how far away they are", () => {
    const told = [0, 5, 120, 24 * 60, 3 * 24 * 60, 40 * 24 * 60].map((minutes) => formats.ago(before(minutes), now));
    expect(told).toEqual(["now", "5 mins", "16:30", "Yesterday", "Thu", "5 May"]);
    expect([0, 24 * 60, 3 * 24 * 60, 40 * 24 * 60].map((minutes) => formats.day(before(minutes), now))).toEqual(["Today", "Yesterday", "Thursday", "5 May 2026"]);
    expect(dayKey(before(0))).not.toBe(dayKey(before(24 * 60)));
  });

  test("a date alone is that date in every zone, and what is none is shown as it came", () => {
    expect(formats.calendarDay("2026-06-14")).toBe("14 June 2026");
    expect(formats.calendarDay("soon")).toBe("soon");
  });

  test("speak the language they are told", () => {
    expect(new Formats("de").day(before(24 * 60), now)).toBe("Gestern");
    expect(new Formats("ar-EG").day(before(0), now)).toBe("اليوم");
  });

  test("sums and sizes", () => {
    expect([formats.money(5240, "GBP"), formats.money(1, "nonsense"), formats.money(1.5, undefined)]).toEqual(["£5,240.00", "1 nonsense", "1.5"]);
    expect([formats.size(0), formats.size(999), formats.size(2_400_000)]).toEqual(["0 byte", "999 byte", "2.4 MB"]);
  });
});

test("what metadata doesn't hold in the right shape is left out", () => {
  expect(quoteOf({ amount: "5240.50", currency: "GBP", title: 7, items: [{ label: "Menu", amount: 1 }, { amount: 2 }, null, "x"] })).toEqual({
    amount: 5240.5,
    currency: "GBP",
    items: [{ label: "Menu", amount: 1 }],
  });
  expect(quoteOf({ amount: Number.NaN, items: {} })).toEqual({});
  expect(bookingOf({ status: "confirmed", starts_at: 12 })).toEqual({ status: "confirmed" });
  expect(fileOf({ url: "javascript:alert(1)", name: "menu.pdf", size: 10 })).toEqual({ name: "menu.pdf", size: 10 });
});
