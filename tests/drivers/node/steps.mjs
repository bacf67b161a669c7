// What the Node programmes share: runs the steps and prints one line for each (see ../README.md).
import { isDeepStrictEqual } from 'node:util';

const { env } = process;
export const TABLE = env.TABLE ?? 'items';
export const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
export const TAGS = ['plain', 'quo"te', 'comma,', 'back\\slash', '', null, 'NULL', 'ü'];
export const TEXT = "naïve 漢字 😀 \u0301 'quoted' \\ \t";
export const BIG = 4 << 20;
export const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);
export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Skip extends Error {}

export function same(got, want) {
  if (!isDeepStrictEqual(got, want)) {
    throw new Error(`got ${JSON.stringify(got)?.slice(0, 80)}, expected ${JSON.stringify(want)?.slice(0, 80)}`);
  }
}

// Fails the step unless the promise ends in an error of that SQLSTATE (without one: in any error).
export async function raises(want, promise) {
  const error = await promise.then(() => null, (error) => error);
  if (error === null) throw new Error(`no error, expected ${want}`);
  if (want && error.code !== want) throw new Error(`${error.code} ${error.message}, expected ${want}`);
}

// Runs all steps some times on one connection; after a failure the next step gets a new one.
export async function run(steps, opened, close) {
  let failed = false;
  for (let lap = 0; lap < Number(env.LAPS ?? 1); lap++) {
    let connection = null;
    for (const [name, step] of Object.entries(steps)) {
      try {
        connection ??= await opened();
        await step(connection);
        console.log('ok', name);
      } catch (error) {
        if (error instanceof Skip) {
          console.log('skip', name, error.message);
          continue;
        }
        failed = true;
        console.log('FAIL', name, error.code ?? '', String(error).replace(/\s+/g, ' ').slice(0, 160));
        if (connection) await Promise.race([close(connection), pause(1000)]).catch(() => {});
        connection = null;
      }
    }
    if (connection) await close(connection).catch(() => {});
  }
  process.exit(failed ? 1 : 0);
}
