import type { TestProject } from "vitest/node";
import { Stack, type StackInfo } from "./stack.ts";

declare module "vitest" {
  interface ProvidedContext {
    stack: StackInfo;
  }
}

/** One stack for all browser tests, ended when they have. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const stack = await Stack.start();
  project.provide("stack", stack.info);
  return () => stack.stop();
}
