import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";

/** A package as npm would publish it. */
export interface Packed {
  name: string;
  tarball: string;
  /** Paths within the package. */
  files: string[];
  /** Removes the tarball. */
  remove(): void;
}

/** Builds and packs the package in a folder. */
export function pack(folder: string): Packed {
  const into = mkdtempSync(join(tmpdir(), "partyline-pack-"));
  const npm = (...args: string[]) => execFileSync("npm", args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  npm("run", "build");
  const [packed] = JSON.parse(npm("pack", "--json", "--ignore-scripts", "--pack-destination", into)) as { name: string; filename: string; files: { path: string }[] }[];
  if (!packed) throw new Error("npm packed nothing");
  return {
    name: packed.name,
    tarball: join(into, packed.filename),
    files: packed.files.map(({ path }) => path),
    remove: () => rmSync(into, { recursive: true }),
  };
}

/** Installs a packed package in a folder, without its dependencies. */
export function install({ name, tarball }: Packed, folder: string): string {
  const place = join(folder, "node_modules", name);
  mkdirSync(place, { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "-C", place, "--strip-components=1"]);
  return place;
}

/** What publint and arethetypeswrong have against a package of ES modules. */
export async function problems({ tarball }: Packed): Promise<string[]> {
  const data = readFileSync(tarball);
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  const types = await checkPackage(createPackageFromTarballData(data));
  if (!types.types) return ["there are no types"];
  // `require` of an ES module and TypeScript's resolution of before Node 12 are none of its ways.
  const isMeant = (problem: object) => !("resolutionKind" in problem && /node10|node16-cjs/.test(String(problem.resolutionKind)));
  return [
    ...messages.map((message) => `publint: ${formatMessage(message, pkg, { color: false }) ?? message.code}`),
    ...types.problems.filter(isMeant).map((problem) => `arethetypeswrong: ${JSON.stringify(problem)}`),
  ];
}
