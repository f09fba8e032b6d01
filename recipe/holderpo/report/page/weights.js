"use strict";
// What p does to one response: holderpo_core/mean.py and loss.py, in float64 (whose digits need no offset b). tests/report/test_weights.py compares the two.
const SMALLEST_P = 1e-30, LARGEST_P = 1e20, MAX_EXPONENT = 10, MAX_LOG_RHO = 20;

const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);
const between = (low, value, high) => Math.min(Math.max(value, low), high);

// log rho and the weights W_t of log-ratios d, at least one; p is any number, ±Infinity too.
function holderMean(d, p) {
  if (Math.abs(p) < SMALLEST_P) p = 0;
  const n = d.length, mean = sumOf(d) / n, extreme = d.reduce((a, b) => (p > 0 ? Math.max(a, b) : Math.min(a, b))), infinite = Math.abs(p) > LARGEST_P;
  const steep = infinite || (extreme - mean) * p > MAX_EXPONENT;
  const reference = steep ? extreme : mean, factor = between(-LARGEST_P, p, LARGEST_P);
  let powers = d.map((value) => Math.expm1((value - reference) * factor));
  if (sumOf(powers) === -n) powers = d.map(() => 0); // no token attains an extreme that was rounded: all are equal
  const total = sumOf(powers);
  return { logMean: reference + Math.log1p(total / n) / (p === 0 ? 1 : p), weights: powers.map((power) => (power + 1) / (total + n)) };
}

// A response as `holder_policy_loss` sees it: weights of all tokens (0 where masked or clipped), the ratio rho, which tokens and
// whether the sequence are clipped, the weights' effective sample size as a share, and whether any gradient is left.
function respond(sample, p, clip) {
  const at = sample.mask.map((one, i) => (one ? i : -1)).filter((i) => i >= 0), advantage = sample.advantage;
  if (!at.length) return { weights: sample.mask.map(() => 0), rho: 1, clippedTokens: sample.mask.map(() => false), clipped: false, size: 1, gradient: false };
  const before = at.map((i) => sample.log_ratio[i]), up = Math.log1p(clip.high);
  let d = before;
  if (clip.level === "token") d = before.map((v) => (advantage > 0 ? Math.min(v, up) : advantage < 0 ? Math.max(v, Math.log1p(-clip.low)) : v));
  if (clip.level === "both") d = before.map((v) => between(-Math.log1p(clip.low), v, up));
  const { logMean, weights } = holderMean(d, p), logRho = between(-MAX_LOG_RHO, logMean, MAX_LOG_RHO), rho = Math.exp(logRho);
  const binds = between(1 - clip.low, rho, 1 + clip.high) * advantage < rho * advantage;
  const clipped = binds && (clip.level === "sequence" || clip.level === "both");
  const all = sample.mask.map(() => 0), clippedTokens = sample.mask.map(() => false);
  at.forEach((i, n) => { clippedTokens[i] = d[n] !== before[n]; all[i] = clippedTokens[i] ? 0 : weights[n]; });
  return {
    weights: all, rho, clippedTokens, clipped, size: Math.min(1, 1 / (at.length * sumOf(weights.map((w) => w * w)))),
    gradient: !clipped && logRho === logMean && advantage !== 0,
  };
}
