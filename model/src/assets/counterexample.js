const trace = JSON.parse(document.getElementById("trace").textContent);
const place = document.getElementById("state");
let shown = trace.steps.length;
let pinned = shown;

function choose(at) {
  shown = at;
  for (const row of document.querySelectorAll(".diagram .row")) {
    row.classList.toggle("chosen", Number(row.dataset.row) === at);
  }
  showState(place, trace, at);
}

const rowOf = (event) => Number(event.target.closest("[data-row]")?.dataset.row ?? -1);
const diagram = document.querySelector(".diagram");
diagram.addEventListener("mouseover", (event) => { if (rowOf(event) >= 0) choose(rowOf(event)); });
diagram.addEventListener("mouseleave", () => choose(pinned));
diagram.addEventListener("click", (event) => { if (rowOf(event) >= 0) choose(pinned = rowOf(event)); });
document.addEventListener("keydown", (event) => {
  const move = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  choose(pinned = Math.min(Math.max(shown + move, 0), trace.steps.length));
});
choose(shown);
