const by = (id) => document.getElementById(id);
const select = by("configuration");
// The address after '#': the configuration, then the marks of the steps.
let configuration, marks, trace, asked = 0;

function parse() {
  const [name, path] = decodeURIComponent(location.hash.slice(1)).split("/");
  configuration = name || document.body.dataset.configuration;
  marks = (path || "").split(".").filter(Boolean);
}

function go(path, name = configuration) {
  location.hash = path.length ? name + "/" + path.join(".") : name;
}

function choiceButton(choice) {
  const [, name, rest] = choice.label.match(/^(\w+)\(?(.*?)\)?$/);
  const button = element("button", {
    class: "choice" + (choice.broken.length ? " bad" : ""),
    title: choice.changes.join("\n") || "nothing changes",
  }, element("b", {}, name), element("span", {}, rest));
  if (choice.aside) button.append(element("span", {}, choice.aside));
  if (choice.broken.length) button.append(element("span", { class: "broken" }, "breaks " + choice.broken.join(", ")));
  button.addEventListener("click", () => go([...marks, choice.mark]));
  return button;
}

function showChoices(choices) {
  const place = by("choices");
  place.replaceChildren();
  if (!choices.length) place.append(element("p", { class: "dim" }, "Nothing more can happen within the bounds."));
  for (const server of [...trace.servers, ""]) {
    const own = choices.filter((choice) => choice.server === server);
    if (!own.length) continue;
    place.append(element("h3", {}, server || "the network"), ...own.map(choiceButton));
  }
}

function show() {
  const at = trace.steps.length;
  document.title = `${trace.configuration}, step ${at}`;
  select.value = trace.configuration;
  by("bounds").textContent = trace.bounds + (trace.purpose ? " · " + trace.purpose : "");
  by("laws").replaceChildren(...trace.laws.map((law) => element("div", {}, `${law.name} is broken: ${law.says}`)));
  by("count").textContent = at === 0 ? "The start" : at === 1 ? "1 step" : at + " steps";
  by("back").disabled = by("again").disabled = at === 0;
  by("diagram").innerHTML = trace.diagram;
  by("diagram").scrollTop = by("diagram").scrollHeight;
  showState(by("state"), trace, at);
  showChoices(trace.choices);
}

async function load() {
  parse();
  const own = ++asked;
  try {
    const query = new URLSearchParams({ configuration, path: marks.join(".") });
    const answer = await fetch("/state?" + query);
    if (own !== asked) return;
    if (!answer.ok) throw new Error(await answer.text());
    trace = await answer.json();
    show();
  } catch (error) {
    const home = element("button", {}, "to the start");
    home.addEventListener("click", () => go([], document.body.dataset.configuration));
    by("choices").replaceChildren();
    by("state").replaceChildren(element("p", { class: "error" }, error.message), home);
  }
}

const rowOf = (event) => Number(event.target.closest("[data-row]")?.dataset.row ?? -1);
// Over a step of the way: the state there. A click goes back to it.
by("diagram").addEventListener("mouseover", (event) => { if (rowOf(event) >= 0) showState(by("state"), trace, rowOf(event)); });
by("diagram").addEventListener("mouseleave", () => { if (trace) showState(by("state"), trace, trace.steps.length); });
by("diagram").addEventListener("click", (event) => { if (rowOf(event) >= 0) go(marks.slice(0, rowOf(event))); });
by("back").addEventListener("click", () => go(marks.slice(0, -1)));
by("again").addEventListener("click", () => go([]));
select.addEventListener("change", () => go([], select.value));
document.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && event.target !== select && !event.altKey && marks.length) go(marks.slice(0, -1));
});
addEventListener("hashchange", load);
load();
