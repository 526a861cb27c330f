/**
 * The writer of netbase, with every single store into shared memory at the test's hands: a copy of
 * netbase/ whose typed arrays and `Atomics` report each store before it is made. The test may look
 * with an ordinary reader then, or throw, as if the writer had died there.
 *
 * @module
 */

import type { NetbaseWriter } from "../../netbase/netbase.ts";

/** Called before each store into shared memory. */
export type OnStore = () => void;

/** Stands in for ffi/view.ts in the copy. */
const HOOKED_VIEW = `
export const hook = { onStore: () => {} };
const targets = new WeakMap();
function hooked(array) {
  const fill = (value, from = 0, to = array.length) => {
    for (let i = from; i < to; i++) { hook.onStore(); array[i] = value; }
  };
  const set = (values, at = 0) => {
    for (let i = 0; i < values.length; i++) { hook.onStore(); array[at + i] = values[i]; }
  };
  const proxy = new Proxy(array, {
    get(target, key) {
      if (key === "fill") return fill;
      if (key === "set") return set;
      const value = target[key];
      return typeof value === "function" ? value.bind(target) : value;
    },
    set(target, key, value) { hook.onStore(); target[key] = value; return true; },
  });
  targets.set(proxy, array);
  return proxy;
}
const RealAtomics = globalThis.Atomics;
export const Atomics = {
  load: (array, i) => RealAtomics.load(targets.get(array) ?? array, i),
  store: (array, i, value) => {
    hook.onStore();
    return RealAtomics.store(targets.get(array) ?? array, i, value);
  },
};
export function slice(view, byteOffset, byteLength) {
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset, byteLength };
}
export function u16(view) {
  return hooked(new Uint16Array(view.buffer, view.byteOffset, view.byteLength >>> 1));
}
export function u32(view) {
  return hooked(new Uint32Array(view.buffer, view.byteOffset, view.byteLength >>> 2));
}
`;

/** The copy's writer class, and where to say what is to happen at each store. */
export interface Hooked {
  readonly Writer: typeof NetbaseWriter;
  readonly hook: { onStore: OnStore };
}

/** Makes the copy in a folder of its own and loads it. */
export async function loadHooked(): Promise<Hooked> {
  const root = await Deno.makeTempDir({ prefix: "tegula-hooked-" });
  const source = new URL("../../netbase/", import.meta.url);
  await Deno.mkdir(`${root}/netbase`);
  await Deno.mkdir(`${root}/ffi`);
  await Deno.writeTextFile(`${root}/ffi/view.ts`, HOOKED_VIEW);
  for await (const file of Deno.readDir(source)) {
    const text = await Deno.readTextFile(new URL(file.name, source));
    const shadowed = `import { Atomics } from "../ffi/view.ts";\n${text}`;
    await Deno.writeTextFile(`${root}/netbase/${file.name}`, shadowed);
  }
  const netbase = await import(`file://${root}/netbase/netbase.ts`);
  const view = await import(`file://${root}/ffi/view.ts`);
  await Deno.remove(root, { recursive: true });
  return { Writer: netbase.NetbaseWriter, hook: view.hook };
}
