import { cleanup } from "@testing-library/react";
import { afterEach } from "vitest";

afterEach(cleanup);

// A document without a layout: the log draws what would fit into a screen of this size.
for (const [name, size] of [["offsetHeight", 600], ["offsetWidth", 800], ["clientHeight", 600]] as const) {
  Object.defineProperty(HTMLElement.prototype, name, { configurable: true, get: () => size });
}
