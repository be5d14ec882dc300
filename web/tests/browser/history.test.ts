import type { CDPSession, Locator } from "playwright-core";
import { expect } from "vitest";
import { test } from "./fixtures.ts";
import { type Person, say, type StackInfo } from "./stack.ts";

const HISTORY = 5_000;
/** Requests at once: as a road of a few milliseconds takes them. */
const AT_ONCE = 32;
/** Work of the page's main thread for a frame, on average: a frame of 60 Hz has 16.7 ms. */
const FRAME_MS = 10;

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
  /** Pixels that messages moved down, and how often they moved against that. */
  moved: number;
  jumps: number;
  /** What was drawn, in order, and the most rows at a time. */
  contents: string[];
  rows: number;
  /** Milliseconds of work for a frame. */
  work: number;
}

/** Turns the wheel of a mouse: content moves down by `distance` pixels, or up if it is negative. */
async function turnWheel(log: Locator, session: CDPSession, distance: number, speed: number): Promise<Scrolled> {
  const threadTime = async () => (await session.send("Performance.getMetrics")).metrics.find(({ name }) => name === "ThreadTime")?.value ?? 0;
  const watch = await log.evaluateHandle((element, direction) => {
    const drawn = () => [...element.querySelectorAll<HTMLElement>(".pl-message")];
    const places = () => new Map(drawn().map((message) => [message.dataset.seq, message.getBoundingClientRect().bottom]));
    const seen = new Map<number, string>();
    const found = { moved: 0, jumps: 0, rows: 0, frames: 0, isOver: false, contents: () => [...seen].sort(([a], [b]) => a - b).map(([, content]) => content) };
    let before = places();
    const look = () => {
      const now = places();
      const { top, bottom } = element.getBoundingClientRect();
      const shown = [...now].find(([seq, at]) => at > top && at < bottom && before.has(seq));
      const step = shown ? shown[1] - (before.get(shown[0]) ?? 0) : 0;
      found.moved += step;
      // A message that no longer begins its group or its day stands a little nearer to the one above.
      if (step * direction < -48) found.jumps++;
      for (const message of drawn()) seen.set(Number(message.dataset.seq), message.querySelector(".pl-content")?.textContent ?? "");
      found.rows = Math.max(found.rows, now.size);
      found.frames++;
      before = now;
      if (!found.isOver) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    return found;
  }, Math.sign(distance));
  const before = await threadTime();
  const { x, y, width, height } = (await log.boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 };
  await session.send("Input.synthesizeScrollGesture", { x: x + width / 2, y: y + height / 2, yDistance: distance, speed, gestureSourceType: "mouse" });
  const worked = (await threadTime()) - before;
  return watch.evaluate((found, seconds) => {
    found.isOver = true;
    return { moved: found.moved, jumps: found.jumps, rows: found.rows, contents: found.contents(), work: (seconds * 1_000) / found.frames };
  }, worked);
}

test("5,000 messages are scrolled through smoothly, and few of them are drawn", { timeout: 90_000 }, async ({ open, stack, couple: { customer, vendor, conversation } }) => {
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
  expect(up.moved).toBeGreaterThan(11_000);
  expect(up.contents).toEqual(all.slice(-up.contents.length));

  // To the very beginning, and down over rows that were never drawn.
  const begins = casey.page.getByText("The conversation begins here.");
  while (!(await begins.isVisible())) await log.evaluate((element) => (element.scrollTop = 0));
  await casey.row(all[0] ?? "").waitFor();
  expect(await casey.page.locator(".pl-row").first().getAttribute("aria-setsize")).toBe(String(HISTORY));
  const down = await turnWheel(log, session, -40_000, 16_000);
  expect(down.jumps).toBe(0);
  expect(down.moved).toBeLessThan(-39_000);
  expect(down.contents).toEqual(all.slice(0, down.contents.length));
  expect(down.contents.length).toBeGreaterThan(400);

  for (const { rows, work } of [up, down]) {
    expect(rows).toBeLessThan(100);
    expect(work).toBeLessThan(FRAME_MS);
  }
  console.log(`scrolling ${HISTORY} messages: ${up.work.toFixed(1)} and ${down.work.toFixed(1)} ms of work a frame, ${Math.max(up.rows, down.rows)} rows drawn at most`);
});
