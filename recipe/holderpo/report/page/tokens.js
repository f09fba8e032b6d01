// A group's responses side by side, each token shaded by its weight at the p that is chosen.
function tokens(data) {
  const LIMITS = { inf: Infinity, "-inf": -Infinity };
  const valued = (p) => (typeof p === "string" ? LIMITS[p] : p);
  let chosen = null, shown = []; // the p that is chosen, null: each response's own; and the responses on the page
  const file = () => data.tokens.find((one) => one.run === $("t-run").value && String(one.step) === $("t-step").value);
  const percent = (share) => `${number(100 * share)} %`;

  function detail({ sample, texts, result, at, note }) {
    const i = at.now, weight = result.weights[i] * at.count;
    texts.forEach((span, n) => span.classList.toggle("at", n === i));
    note.textContent = `token ${i + 1} of ${texts.length}: ${JSON.stringify(sample.tokens[i])}` + (sample.mask[i]
      ? `, log-ratio ${number(sample.log_ratio[i])}, probability ${number(Math.exp(sample.log_prob[i]))}, weight ${number(weight)} x uniform` + (result.clippedTokens[i] ? ", clipped" : "")
      : ", not of the model: without a weight");
  }

  function response(sample, clip) {
    const made = element("article"), head = made.appendChild(element("header")), text = made.appendChild(element("pre", undefined, "response"));
    const note = made.appendChild(element("p", "", "detail")), texts = sample.tokens.map((token) => element("span", token === "" ? "\u00b7" : token));
    const one = { sample, clip, head, texts, note, made, at: { now: 0, count: sumOf(sample.mask) } };
    text.append(...texts); text.tabIndex = 0; text.setAttribute("role", "group");
    text.setAttribute("aria-label", "tokens of a response; arrow keys go through them, and what is known of each is said below");
    note.setAttribute("aria-live", "polite");
    const to = (i) => { one.at.now = between(0, i, texts.length - 1); detail(one); };
    texts.forEach((span, i) => { span.classList.toggle("masked", !sample.mask[i]); span.onmouseenter = () => to(i); });
    text.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 20, ArrowUp: -20 }[event.key];
      if (step) { to(one.at.now + step); event.preventDefault(); }
    };
    return one;
  }

  function shade() {
    for (const one of shown) {
      const own = valued(one.sample.p), p = chosen ?? own ?? 1, result = one.result = respond(one.sample, p, one.clip);
      one.head.replaceChildren(...[
        `reward ${number(one.sample.reward)}`, `advantage ${number(one.sample.advantage)}`, `p ${number(p)}`, `rho ${number(result.rho)}`,
        `effective sample size ${percent(result.size)} of ${one.at.count} tokens`, result.clipped ? "clipped: no gradient" : result.gradient ? "" : "no gradient",
      ].filter((part) => part).map((part) => element("span", part)));
      // 0 for no weight, .26 for the uniform one, .91 for eight times that
      one.texts.forEach((span, i) => {
        span.style.setProperty("--w", (1 - Math.exp(-0.3 * result.weights[i] * one.at.count)).toFixed(3));
        span.classList.toggle("clipped", result.clippedTokens[i]);
      });
      if (one.note.textContent) detail(one);
    }
    const ps = [...new Set(shown.map((one) => valued(one.sample.p)))], own = ps.length === 1 && ps[0] === null ? "this loss has none: 1" : ps.map(number).join(" and ");
    $("t-said").textContent = chosen === null ? `p of the run (${own})` : `p = ${number(chosen)}; the run's: ${own}`;
  }

  function group() {
    const of = file(), samples = of ? of.samples.filter((one) => one.group === $("t-group").value) : [];
    shown = samples.map((sample) => response(sample, of.clip));
    $("t-prompt").textContent = samples.length ? samples[0].prompt : "";
    $("t-clip").textContent = of ? `Clip level ${of.clip.level}, ratios from ${number(1 - of.clip.low)} to ${number(1 + of.clip.high)}.` : "These runs have kept no tokens (report.token_groups).";
    $("tokens").replaceChildren(...shown.map((one) => one.made));
    shade();
  }
  const groups = () => {
    const names = [...new Set((file() || { samples: [] }).samples.map((one) => one.group))];
    options($("t-group"), names);
    [...$("t-group").options].forEach((option, i) => { option.textContent = `group ${i + 1}`; });
    group();
  };
  const steps = () => {
    options($("t-step"), data.tokens.filter((one) => one.run === $("t-run").value).map((one) => String(one.step)));
    $("t-step").selectedIndex = $("t-step").options.length - 1;
    groups();
  };
  const choose = (p) => { chosen = p; if (Number.isFinite(p)) $("t-p").value = p; $("t-number").value = p === null ? "" : p === Infinity ? "inf" : p === -Infinity ? "-inf" : p; shade(); };
  $("t-p").oninput = () => choose(Number($("t-p").value));
  $("t-number").oninput = () => {
    const given = $("t-number").value.trim(), p = LIMITS[given] ?? Number(given);
    if (given !== "" && !Number.isNaN(p)) { chosen = p; if (Number.isFinite(p)) $("t-p").value = p; shade(); }
  };
  $("t-own").onclick = () => choose(null);
  options($("t-run"), [...new Set(data.tokens.map((one) => one.run))]);
  $("t-run").oninput = steps; $("t-step").oninput = groups; $("t-group").oninput = group;
  steps();
}
