// A page that is served: it loads anew when the runs have changed, with its controls as they were.
const POLL_MILLISECONDS = 3000, SHOWN_MILLISECONDS = 15000, KEPT = "controls";

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
  for (const control of document.querySelectorAll("main select[id], main input[id]")) {
    if (!(control.id in kept) || (control.options && ![...control.options].some((option) => option.value === kept[control.id]))) continue;
    if (control.type === "checkbox") control.checked = kept[control.id]; else control.value = kept[control.id];
    if (control.id !== "t-number" || control.value !== "") control.dispatchEvent(new Event("input"));
  }
}

function keep() {
  const newest = (control) => control.id.endsWith("-step") && control.selectedIndex === control.options.length - 1; // is to stay the newest
  const untouched = (control) => control.id === "t-p" && $("t-number").value === "";
  const kept = [...document.querySelectorAll("main select[id], main input[id]")].filter((control) => !newest(control) && !untouched(control));
  sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(kept.map((control) => [control.id, control.type === "checkbox" ? control.checked : control.value]))));
}

function watch(version) {
  const said = $("state").textContent;
  restore();
  setInterval(async () => {
    try {
      const answer = await fetch("version");
      if (!answer.ok) throw answer.status;
      const now = await answer.text();
      $("state").textContent = said;
      if (now === version || performance.now() < SHOWN_MILLISECONDS) return;
      keep();
      location.reload();
    } catch (error) { $("state").textContent = "the server of this page does not answer; what is here is the last that it gave"; }
  }, POLL_MILLISECONDS);
}
