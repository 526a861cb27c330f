/** The library for authors of apps: each structure next to a model that is simple and slow. */

import assert from "node:assert/strict";
import { TokenBuckets } from "../../../apps/library/token_buckets.ts";
import fc from "../property.ts";

Deno.test("a token bucket lets through what one that counts tokens lets through", () => {
  const asks = fc.array(fc.tuple(fc.nat(3), fc.nat(400)), { maxLength: 200 });
  fc.assert(fc.property(asks, fc.integer({ min: 1, max: 20 }), (asks, burst) => {
    const buckets = new TokenBuckets({ perSecond: 10, burst, entries: 64 });
    const model = new Map<number, { tokens: number; at: number }>();
    let now = 1e12;
    for (const [address, elapsed] of asks) {
      now += elapsed;
      const bucket = model.get(address) ?? { tokens: burst, at: now };
      // In hundredths of a token, which are exact: ten tokens a second are one a millisecond.
      bucket.tokens = Math.min(burst, (bucket.tokens * 100 + (now - bucket.at)) / 100);
      bucket.at = now;
      model.set(address, bucket);
      const expected = bucket.tokens >= 1 - 1e-9;
      if (expected) bucket.tokens -= 1;
      assert.equal(buckets.take(address, now), expected);
    }
  }));
});

Deno.test("of more addresses than entries the active ones stay limited", () => {
  const buckets = new TokenBuckets({ perSecond: 1, burst: 1, entries: 1024 });
  assert.ok(buckets.take(0xffff_ffff, 0));
  for (let i = 0; i < 100_000; i++) {
    // It asks between strangers that ask once, and gets one token a second.
    const now = i / 10;
    const granted = buckets.take(0xffff_ffff, now);
    assert.equal(granted, now > 0 && Number.isInteger(now / 1000), `${now}`);
    buckets.take(i, now - 1001);
  }
});

Deno.test("the number of entries has to be a power of two", () => {
  for (const entries of [0, 4, 24]) {
    const make = () => new TokenBuckets({ perSecond: 1, burst: 1, entries });
    assert.throws(make, /entries must be a power of two/);
  }
});
