import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/browser/**/*.test.ts"],
    globalSetup: ["tests/browser/setup.ts"],
    // One stack for all, and one of the tests kills its gateway.
    fileParallelism: false,
    // One browser for all, too.
    isolate: false,
    testTimeout: 30_000,
    hookTimeout: 120_000,
    // A browser on a busy machine: a second try, with new people, which the report names. Never at a desk.
    retry: process.env.CI ? 1 : 0,
    expect: { poll: { timeout: 15_000, interval: 25 } },
  },
});
