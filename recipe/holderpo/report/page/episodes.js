// Episodes as dialogues: what the room said, what it allowed, and what the model answered.
function episodes(data) {
  $("s-episodes").hidden = !data.episodes.length;
  function turn(step, i) {
    const made = element("div", undefined, "turn");
    made.append(element("p", `${i + 1}. ${step.saw}`, "saw"));
    if (step.commands.length) {
      const allowed = made.appendChild(element("details"));
      allowed.append(element("summary", `${step.commands.length} commands allowed`), element("p", step.commands.join("; ")));
    }
    made.append(element("p", step.answer, step.admissible ? "said" : "said not"));
    if (!step.admissible) made.append(element("p", "no admissible command: nothing happens", "about"));
    return made;
  }
  function show() {
    const of = data.episodes.find((one) => one.run === $("e-run").value) || { rows: [], all: 0 }, words = $("e-search").value.toLowerCase();
    const text = (episode) => [episode.task, ...episode.steps.flatMap((step) => [step.saw, step.answer])].join(" ").toLowerCase();
    const found = of.rows.filter((one) => ["", String(one.won)].includes($("e-won").value) && text(one).includes(words));
    $("e-count").textContent = `${found.length} of the ${of.rows.length} episodes that are here, of ${of.all} in all, at step ${of.step}`;
    $("episodes").replaceChildren(...found.slice(0, SHOWN_AT_ONCE).map((episode) => {
      const made = element("details", undefined, "episode"), head = element("summary", `${episode.won ? "won" : "not won"} in ${episode.steps.length} steps: ${episode.task} (${episode.kind}, ${episode.split})`);
      made.append(head, ...episode.steps.map(turn));
      return made;
    }));
  }
  options($("e-run"), data.episodes.map((one) => one.run));
  for (const id of ["e-run", "e-won", "e-search"]) $(id).oninput = show;
  show();
}
