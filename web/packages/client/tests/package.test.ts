import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { install, pack, type Packed, problems } from "../../../tests/pack.ts";

const FOLDER = join(import.meta.dirname, "..");
/** Bytes, minified and gzipped, that an entry point may weigh with all that it needs. */
const LIMITS = { index: 9.5 * 1_024, tabs: 2.5 * 1_024, indexeddb: 1_024 };

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

describe("the package", () => {
  it("has nothing that publint or arethetypeswrong find wrong", async () => {
    expect(await problems(packed)).toEqual([]);
  });

  it("has modules, types, source maps with their sources, and what a reader needs; nothing else", () => {
    const kinds = new Set(packed.files.map((file) => file.replace(/^(dist|src)\/[a-z]+\./, "$1/*.")));
    expect([...kinds].sort()).toEqual(["LICENSE", "README.md", "dist/*.d.ts", "dist/*.d.ts.map", "dist/*.js", "dist/*.js.map", "package.json", "src/*.ts"]);
    for (const map of packed.files.filter((file) => file.endsWith(".map"))) {
      const { sources } = JSON.parse(readFileSync(join(installed, map), "utf8")) as { sources: string[] };
      expect(sources.map((source) => join("dist", source)).filter((source) => !packed.files.includes(source)), map).toEqual([]);
    }
  });

  it("needs no other", () => {
    const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as Record<string, unknown>;
    expect([dependencies, peerDependencies]).toEqual([undefined, undefined]);
  });

  it.each(Object.entries(LIMITS))("%s is small enough", async (entry, limit) => {
    const bundle = await rolldown({ input: join(installed, "dist", `${entry}.js`), platform: "browser" });
    const { output } = await bundle.generate({ minify: true });
    await bundle.close();
    const size = gzipSync(output[0].code, { level: 9 }).length;
    console.log(`@partyline/client, ${entry}: ${size} bytes minified and gzipped, of ${limit} at most`);
    expect(size).toBeLessThanOrEqual(limit);
  });
});

it("types every example of the README", () => {
  const examples = [...readFileSync(join(installed, "README.md"), "utf8").matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code ?? "");
  expect(examples).toHaveLength(3);
  for (const [index, code] of examples.entries()) {
    const given = code.includes("const token") ? "" : "declare const token: () => Promise<string>;\n";
    writeFileSync(join(project, `example${index}.ts`), given + code);
  }
  const compilerOptions = { target: "es2022", module: "nodenext", lib: ["es2023", "dom", "dom.iterable"], strict: true, noEmit: true, types: [], skipLibCheck: false };
  writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module" }));
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  execFileSync(join(FOLDER, "../../node_modules/.bin/tsc"), ["-p", project], { stdio: "inherit" });
});
