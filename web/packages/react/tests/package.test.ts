// @vitest-environment node
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { install, pack, type Packed, problems } from "../../../tests/pack.ts";

const FOLDER = join(import.meta.dirname, "..");

let packed: Packed;
let project: string;
let installed: string;

beforeAll(() => {
  packed = pack(FOLDER);
  project = mkdtempSync(join(tmpdir(), "partyline-user-"));
  installed = install(packed, project);
}, 60_000);

afterAll(() => {
  packed.remove();
  rmSync(project, { recursive: true });
});

test("publint and arethetypeswrong find nothing wrong", async () => {
  expect(await problems(packed)).toEqual([]);
});

test("it has modules, types, source maps with their sources, styles, and what a reader needs; nothing else", () => {
  const kinds = new Set(packed.files.map((file) => file.replace(/^(dist|src|styles)\/(.+\/)?[a-z-]+\./, "$1/*.")));
  const made = ["dist/*.d.ts", "dist/*.d.ts.map", "dist/*.js", "dist/*.js.map"];
  expect([...kinds].sort()).toEqual(["LICENSE", "README.md", ...made, "package.json", "src/*.ts", "src/*.tsx", "styles/*.css", "styles/*.d.ts"]);
  for (const map of packed.files.filter((file) => file.endsWith(".map"))) {
    const { sources } = JSON.parse(readFileSync(join(installed, map), "utf8")) as { sources: string[] };
    expect(sources.map((source) => join(map, "..", source)).filter((source) => !packed.files.includes(source)), map).toEqual([]);
  }
});

test("it runs in the browser only, and brings no React of its own", () => {
  expect(readFileSync(join(installed, "dist/index.js"), "utf8")).toMatch(/^"use client";/);
  const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as Record<string, object>;
  expect(Object.keys(dependencies ?? {})).toEqual(["@partyline/client", "@tanstack/react-virtual"]);
  expect(peerDependencies).toMatchObject({ react: "^19.0.0", "react-dom": "^19.0.0" });
});

test("every import of its modules and styles is a file of the package, or a dependency", () => {
  const known = new Set(packed.files);
  const dependencies = /^(react|react-dom|react\/jsx-runtime|@partyline\/client|@tanstack\/react-virtual)$/;
  for (const file of packed.files.filter((it) => /^dist\/.*(\.js|\.d\.ts)$|\.css$/.test(it))) {
    const code = readFileSync(join(installed, file), "utf8");
    const imports = [...code.matchAll(/^(?:import|export) .*?from "(.+?)"|^@import "(.+?)"|import\("(.+?)"\)/gm)].map(([, ...found]) => found.find(Boolean) ?? "");
    // A declaration says `./a.tsx`, and TypeScript takes `./a.d.ts`.
    const target = (it: string) => join(file, "..", it.replace(/\.tsx?$/, ".d.ts"));
    const missing = imports.filter((it) => (it.startsWith(".") ? !known.has(target(it)) : !dependencies.test(it)));
    expect(missing, file).toEqual([]);
  }
});
