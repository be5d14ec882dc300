import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { name: "react", include: ["tests/**/*.test.{ts,tsx}"], environment: "happy-dom", restoreMocks: true },
});
