// Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows; and dashes beside them.
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DASHES = ["solid", "dash", "dot"], BORDERS = ["solid", "dashed", "dotted"];
const SHOWN_AT_ONCE = 100;
const $ = (id) => document.getElementById(id);

async function unpacked(id) {
  const bytes = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Text is never parsed as HTML: what models have written is untrusted.
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(table, cells, name) {
  const made = table.appendChild(element("tr"));
  for (const cell of cells) made.append(element(name || "td", cell, typeof cell === "number" ? "number" : ""));
  for (const head of made.querySelectorAll("th")) head.scope = "col";
  return made;
}

// Plotly takes some tags in the texts of a chart.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const number = (value) => (value === undefined || value === null ? "" : typeof value === "number" ? Number(value.toPrecision(4)) : value);
const finite = (value) => (typeof value === "number" ? value : null);
const within = (ends) => (ends ? `[${number(ends[0])}, ${number(ends[1])}]` : "");

function options(select, values) {
  select.replaceChildren(...values.map((value) => { const o = element("option", value); o.value = value; return o; }));
}

// An exponential moving average that passes over steps without a value, and weighs its first values like the later ones.
function smooth(values, weight) {
  if (weight === 0) return values;
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// Mean over a group's runs at the steps that all of them have, and its 95 % interval (Student's t) where they are enough. Tokens and
// seconds differ between runs of a group: a step is drawn where they are in the mean.
function band(lines, t, fewest) {
  const at = new Map(), mean = { x: [], y: [] }, ends = { x: [], low: [], high: [] }, n = lines.length;
  for (const line of lines) line.steps.forEach((step, i) => at.set(step, [...(at.get(step) || []), [line.x[i], line.y[i]]]));
  for (const [, points] of [...at].sort(([a], [b]) => a - b)) {
    if (points.length < n) continue;
    const average = (which) => points.reduce((sum, point) => sum + point[which], 0) / n, x = average(0), y = average(1);
    mean.x.push(x); mean.y.push(y);
    if (n < fewest) continue;
    const half = t[Math.min(n - 2, t.length - 1)] * Math.sqrt(points.reduce((sum, [, value]) => sum + (value - y) ** 2, 0) / (n - 1) / n);
    ends.x.push(x); ends.low.push(y - half); ends.high.push(y + half);
  }
  return { mean, ends };
}

function layout(title, more) {
  const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), automargin: true };
  return {
    title: { text: title, font: { size: 14 }, x: 0, xref: "paper" }, paper_bgcolor: color("--back"), plot_bgcolor: color("--back"),
    font: { color: color("--text") }, margin: { t: 40, r: 10, b: 40, l: 50 }, hovermode: "closest", hoverlabel: { namelength: -1 }, showlegend: true,
    legend: { orientation: "h", y: -0.2 }, xaxis: { ...axis }, yaxis: { ...axis }, ...more,
  };
}

const draw = (id, traces, title, more) => Plotly.react($(id), traces, layout(title, more), { responsive: true, displaylogo: false, displayModeBar: id === "compare" ? undefined : false });

function main(data) {
  const groups = [...new Set(data.runs.map((run) => run.group))];
  const color = (group) => COLORS[groups.indexOf(group) % COLORS.length];
  const dashed = (group) => groups.indexOf(group) % DASHES.length;
  const shown = new Set(groups);

  const results = data.results;
  $("measured").textContent = `${results.measure} at step ${results.step}` + (results.missing.length ? `; without one, and left out: ${results.missing.join(", ")}` : "");
  row($("results"), ["group", "seeds", "mean", "interval", "minus the first group", "interval", "seeds"], "th");
  for (const r of results.rows)
    row($("results"), [r.group, r.seeds, number(r.mean), within(r.mean_interval), number(r.difference), within(r.difference_interval), r.pairs || ""]);
  row($("differences"), ["key", ...data.runs.map((run) => run.name)], "th");
  for (const [key, values] of Object.entries(data.differences)) row($("differences"), [key, ...values]);

  const metrics = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))].sort();
  options($("metric"), metrics);
  for (const first of ["accuracy, sampled", "accuracy, greedy", "critic/score/mean"].reverse())
    if (metrics.includes(first)) $("metric").value = first;
  for (const group of groups) {
    const label = $("groups").appendChild(element("label")), box = label.appendChild(element("input")), key = element("span", "", "key");
    box.type = "checkbox"; box.checked = true; box.id = `group ${group}`; key.style.borderTopColor = color(group); key.style.borderTopStyle = BORDERS[dashed(group)];
    label.append(key, group);
    box.oninput = () => { box.checked ? shown.add(group) : shown.delete(group); compare(); };
  }

  function compare() {
    const metric = $("metric").value, x = $("x").value, weight = Number($("smoothing").value), traces = [];
    $("smoothed").textContent = weight ? `moving average, ${weight}` : "none";
    for (const group of shown) {
      const runs = data.runs.filter((run) => run.group === group && run.metrics[metric]);
      const lines = runs.map((run) => {
        const known = run.metrics[metric].map((v, i) => [i, finite(v)]).filter(([, v]) => v !== null);
        return { run, steps: known.map(([i]) => run.x.step[i]), x: known.map(([i]) => run.x[x][i] ?? null), y: smooth(known.map(([, v]) => v), weight) };
      });
      const finished = lines.filter(({ run }) => !results.missing.includes(run.name)); // as in the table
      const several = finished.length > 1, style = { color: color(group), dash: DASHES[dashed(group)] };
      if (several) {
        const { mean, ends } = band(finished, data.t, data.fewest), none = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: group };
        traces.push({ ...none, x: ends.x, y: ends.low }, { ...none, x: ends.x, y: ends.high, fill: "tonexty", fillcolor: color(group) + "33" });
        traces.push({ ...mean, name: plain(`${group}: mean of ${finished.length}`), mode: "lines", line: { ...style, width: 3 }, legendgroup: group });
      }
      if (!several || $("single").checked)
        for (const line of lines)
          traces.push({ x: line.x, y: line.y, name: plain(several ? line.run.name : `${group} (${line.run.name})`), mode: line.x.length < 40 ? "lines+markers" : "lines",
            opacity: several ? 0.45 : 1, line: { ...style, width: several ? 1 : 2 }, marker: { size: 4 }, showlegend: !several, legendgroup: group });
      const broken = ({ run }) => run.metrics[metric].map((v, i) => [i, `${metric} is ${v}`]).filter(([i]) => typeof run.metrics[metric][i] === "string");
      for (const { run } of lines)
        for (const [at, what] of [...run.marks, ...broken({ run })])
          traces.push({ x: [run.x[x][at]], y: [0], yaxis: "y2", mode: "markers", marker: { symbol: "x", size: 9, color: color(group) }, showlegend: false, hovertemplate: "%{text}<extra></extra>", text: [plain(`${run.name}, step ${run.x.step[at]}: ${what}`)] });
    }
    draw("compare", traces, plain(weight ? `${metric} (smoothed)` : metric), { showlegend: false, xaxis: { ...layout("").xaxis, title: { text: x } }, yaxis2: { overlaying: "y", range: [-0.02, 1], visible: false } });
  }
  for (const id of ["metric", "x", "smoothing", "single"]) $(id).oninput = compare;

  function effect() {
    const run = data.runs.find((one) => one.name === $("run").value), steps = run.x.step;
    const line = (key, name, i) => ({ x: steps, y: (run.metrics[key] || []).map(finite), name, mode: steps.length < 40 ? "lines+markers" : "lines", marker: { size: 4 }, line: { color: COLORS[i], dash: DASHES[i % DASHES.length], width: 2 } });
    const known = (lines) => lines.filter((one) => one.y.some((v) => v !== null));
    const reach = (run.metrics["|p| x spread of log-ratios"] || []).filter((v) => v !== null);
    const acts = reach.filter((v) => v === "inf" || v >= data.no_effect_below).length;
    $("effect").textContent = reach.length ? `|p| x spread of log-ratios reaches ${data.no_effect_below}, from which p acts, in ${acts} of ${reach.length} steps.`
      : steps.some((step) => step > 0) ? "The loss of this run has no p." : "No training step yet.";
    const spread = run.metrics["holder/last_log_ratio_std"] ? "holder/last_log_ratio_std" : "holder/log_ratio_std";
    const limit = (y, name) => ({ x: [steps[0], steps[steps.length - 1]], y: [y, y], name, mode: "lines", line: { color: "#7F7F7F", dash: "dot", width: 1 } });
    draw("p", known([line("holder/p", "p", 0), line("holder/p_positive", "p, advantage > 0", 1), line("holder/p_negative", "p, advantage < 0", 2)]), "Order p");
    draw("spread", [...known([line("|p| x spread of log-ratios", "|p| x spread", 0), line(spread, "spread of log-ratios", 1)]), limit(data.no_effect_below, "below: p without effect")], "Reach of p");
    draw("weights", known([line("holder/effective_sample_size", "effective sample size / tokens", 0), line("holder/weight_entropy", "entropy / log(tokens)", 1)]), "Weights over a response (1: uniform)");
    draw("clips", [...known([line("holder/clip_fraction", "this run's clip", 0), line("holder/sequence_clip_fraction", "sequences beyond the range", 1), line("holder/token_clip_fraction", "tokens beyond the range", 2)]), limit(data.clips_too_much_above, "above: much is without gradient")], "Clip fractions");
    draw("moment", known([line("holder/second_moment", "second moment", 0), line("holder/bound", "Theorem 2's bound", 1)]), "Gradient's second moment", { yaxis: { ...layout("").yaxis, type: "log" } });
  }
  options($("run"), data.runs.map((run) => run.name));
  $("run").oninput = effect;

  const withScore = { "": () => true, 1: (score) => score > 0, 0: (score) => score !== null && !(score > 0), none: (score) => score === null };
  function answers() {
    const words = $("s-search").value.toLowerCase(), fits = withScore[$("s-score").value];
    const file = data.answers.find((one) => one.run === $("s-run").value && String(one.step) === $("s-step").value) || { all: 0, rows: [] };
    const found = file.rows.filter((s) => fits(s.score) && (s.input + s.output + s.truth).toLowerCase().includes(words));
    $("s-count").textContent = !data.answers.length ? "These runs have no generations."
      : `${found.length} of the ${file.rows.length} answers that are here, of ${file.all} in all` + (found.length > SHOWN_AT_ONCE ? `; the first ${SHOWN_AT_ONCE} are shown` : "");
    $("answers").replaceChildren(...found.slice(0, SHOWN_AT_ONCE).map((s) => {
      const made = element("article"), head = made.appendChild(element("header"));
      head.append(element("span", `score ${s.score}`), ...(s.why === undefined ? [] : [element("span", `answer: ${s.answer}`)]), element("span", `truth: ${s.truth}`));
      if (s.why !== undefined) head.append(element("span", s.why));
      made.append(element("pre", s.input, "input"), element("pre", s.output, "output"));
      return made;
    }));
  }
  function steps() {
    options($("s-step"), data.answers.filter((one) => one.run === $("s-run").value).map((one) => String(one.step)));
    $("s-step").selectedIndex = $("s-step").options.length - 1;
    answers();
  }
  tokens(data);
  episodes(data);
  options($("s-run"), [...new Set(data.answers.map((one) => one.run))]);
  $("s-run").oninput = steps;
  for (const id of ["s-step", "s-score", "s-search"]) $(id).oninput = answers;

  $("state").textContent = `${data.runs.length} runs in ${groups.length} groups`;
  document.querySelector("main").hidden = false;
  const all = () => { compare(); effect(); };
  all(); steps();
  if (data.version !== null) watch(data.version);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
}

(async () => {
  try {
    const library = element("script", await unpacked("library"));
    document.head.append(library);
    main(JSON.parse(await unpacked("data")));
  } catch (error) {
    $("state").textContent = `This page could not be shown: ${error}`;
    throw error;
  }
})();
