import type { CDPSession, Locator } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { type Person, say, type StackInfo } from "./stack.ts";

const HISTORY = 5_000;
/** Requests at once: as a road of a few milliseconds takes them. */
const AT_ONCE = 32;

/** What `count` messages say, in the order of the log. */
async function fill(stack: StackInfo, conversation: string, people: readonly Person[], count: number): Promise<string[]> {
  const said: { seq: number; content: string }[] = [];
  let next = 0;
  const talk = async () => {
    while (next < count) {
      const index = next++;
      const content = `#${index}: ${"we talked about this and that ".repeat(1 + (index % 5))}`.trim();
      const { seq } = await say(stack, conversation, people[index % people.length] as Person, content);
      said.push({ seq, content });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, talk));
  return said.sort((a, b) => a.seq - b.seq).map(({ content }) => content);
}

interface Scrolled {
  /** How often messages moved against the wheel. */
  jumps: number;
  /** What was drawn, in order, and the most rows at a time. */
  contents: string[];
  rows: number;
  /** Milliseconds of the main thread's work in each sixtieth of a second, of which that has 16.7. */
  work: number;
}

/** Turns the wheel of a mouse: content moves down by `distance` pixels, or up if it is negative. */
async function turnWheel(log: Locator, session: CDPSession, distance: number, speed: number): Promise<Scrolled> {
  const threadTime = async () => (await session.send("Performance.getMetrics")).metrics.find(({ name }) => name === "ThreadTime")?.value ?? 0;
  const watch = await log.evaluateHandle((element, direction) => {
    const drawn = () => [...element.querySelectorAll<HTMLElement>(".pl-message")];
    const places = () => new Map(drawn().map((message) => [message.dataset.seq, message.getBoundingClientRect().bottom]));
    const seen = new Map<number, string>();
    const found = { jumps: 0, rows: 0, isOver: false, contents: () => [...seen].sort(([a], [b]) => a - b).map(([, content]) => content) };
    let before = places();
    const look = () => {
      const now = places();
      const { top, bottom } = element.getBoundingClientRect();
      const shown = [...now].find(([seq, at]) => at > top && at < bottom && before.has(seq));
      const step = shown ? shown[1] - (before.get(shown[0]) ?? 0) : 0;
      // A message that no longer begins its group or its day stands a little nearer to the one above.
      if (step * direction < -48) found.jumps++;
      for (const message of drawn()) seen.set(Number(message.dataset.seq), message.querySelector(".pl-content")?.textContent ?? "");
      found.rows = Math.max(found.rows, now.size);
      before = now;
      if (!found.isOver) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    return found;
  }, Math.sign(distance));
  const [before, began] = [await threadTime(), performance.now()];
  const { x, y, width, height } = (await log.boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 };
  await session.send("Input.synthesizeScrollGesture", { x: x + width / 2, y: y + height / 2, yDistance: distance, speed, gestureSourceType: "mouse" });
  const work = ((await threadTime()) - before) * (1_000 / 60) / ((performance.now() - began) / 1_000);
  const found = await watch.evaluate((it) => {
    it.isOver = true;
    return { jumps: it.jumps, rows: it.rows, contents: it.contents() };
  });
  return { ...found, work };
}

test("5,000 messages are scrolled through smoothly, and few of them are drawn", { timeout: 180_000 }, async ({ open, stack, couple: { customer, vendor, conversation } }) => {
  const all = await fill(stack, conversation, [customer, vendor, vendor], HISTORY);
  const casey = await open({ person: customer, conversation });
  await casey.row(all.at(-1) ?? "").waitFor();
  const log = casey.page.getByTestId("log");
  const session = await casey.page.context().newCDPSession(casey.page);
  // CPU time, which others on the machine don't add to.
  await session.send("Performance.enable", { timeDomain: "threadTicks" });

  // Up, while older pages come.
  const up = await turnWheel(log, session, 12_000, 6_000);
  expect(up.jumps).toBe(0);
  expectInOrder(up.contents, all, 150);

  // To the very beginning, and down over rows that were never drawn.
  const begins = casey.page.getByText("The conversation begins here.");
  while (!(await begins.isVisible())) await log.evaluate((element) => (element.scrollTop = 0));
  await casey.row(all[0] ?? "").waitFor();
  expect(await casey.page.locator(".pl-row").first().getAttribute("aria-setsize")).toBe(String(HISTORY));
  const down = await turnWheel(log, session, -40_000, 16_000);
  expect(down.jumps).toBe(0);
  expectInOrder(down.contents, all, 300);

  // Few rows at a time are what keeps the work of a frame small; how much it is depends on the machine, and is told.
  for (const { rows } of [up, down]) expect(rows).toBeLessThan(100);
  console.log(`scrolling ${HISTORY} messages: ${up.work.toFixed(1)} and ${down.work.toFixed(1)} ms of work in each sixtieth of a second, ${Math.max(up.rows, down.rows)} rows drawn at most`);
});

/** A busy machine leaves frames out, and what only they would have shown: the rest is in its order. */
function expectInOrder(contents: string[], all: string[], atLeast: number): void {
  const places = new Map(all.map((content, index) => [content, index]));
  const found = contents.map((content) => places.get(content) ?? -1);
  expect(found).toEqual([...new Set(found)].sort((a, b) => a - b));
  expect(found[0]).toBeGreaterThanOrEqual(0);
  expect(found.length).toBeGreaterThan(atLeast);
}
