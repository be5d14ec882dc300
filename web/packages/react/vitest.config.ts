import { readFileSync } from "node:fs";
import { join } from "node:path";
import { defaultClientConditions } from "vite";
import { defineConfig } from "vitest/config";

/** The README's examples as modules, `readme:0.tsx` the first, so that a test can run what it promises. */
const readme = {
  name: "readme",
  enforce: "pre" as const,
  resolveId: (id: string) => (id.startsWith("readme:") ? join(import.meta.dirname, "tests", id) : undefined),
  load(id: string) {
    const index = /readme:(\d+)\.tsx$/.exec(id)?.[1];
    if (index === undefined) return undefined;
    const text = readFileSync(join(import.meta.dirname, "README.md"), "utf8");
    return [...text.matchAll(/```tsx\n([^]*?)```/g)][Number(index)]?.[1];
  },
};

const conditions = ["@partyline/source", ...defaultClientConditions];

export default defineConfig({
  plugins: [readme],
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    name: "react",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: ["tests/setup.ts"],
    environment: "happy-dom",
    restoreMocks: true,
    unstubGlobals: true,
  },
});
