// A state as a table: a row for each variable, a column for each server; what the last step changed is marked.
"use strict";

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function cellOf(lines, before, name) {
  const changed = before !== undefined && JSON.stringify(lines) !== JSON.stringify(before);
  const classes = [changed ? "changed" : "", name === "role" ? lines[0] : ""].join(" ").trim();
  const title = changed ? "before: " + (before.join("\n") || "nothing") : null;
  const cell = element("td", { class: classes || null, title });
  if (lines.length === 0) cell.append(element("span", { class: "empty" }, "–"));
  for (const line of lines) cell.append(element("div", {}, line));
  return cell;
}

function stateTable(servers, state, before) {
  const head = element("tr", {}, element("th", {}), ...servers.map((server) => element("th", {}, server)));
  const rows = state.rows.map((row, at) => {
    const old = before ? before.rows[at].cells : [];
    const cells = row.cells.map((lines, server) => cellOf(lines, old[server], row.name));
    return element("tr", {}, element("th", {}, row.name), ...cells);
  });
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function messageList(state, before) {
  const old = before ? before.messages : state.messages;
  const list = element("ul", { class: "messages" });
  for (const message of state.messages) {
    list.append(element("li", { class: old.includes(message) ? null : "changed" }, message));
  }
  for (const message of old.filter((each) => !state.messages.includes(each))) {
    list.append(element("li", { class: "gone", title: "no longer on its way" }, message));
  }
  if (!list.children.length) list.append(element("li", { class: "dim" }, "none"));
  return list;
}

function historyLine(state, before) {
  const part = (name, text) => {
    const changed = before && JSON.stringify(before[name]) !== JSON.stringify(state[name]);
    return element("li", { class: changed ? "changed" : null }, text);
  };
  const leaders = state.leaders.length ? state.leaders.join("  ") : "nobody";
  const committed = state.committed.length ? state.committed.join(", ") : "nothing";
  return element("ul", { class: "messages" },
    part("leaders", "leaders: " + leaders), part("committed", "committed: " + committed),
    part("crashes", "crashes: " + state.crashes.join("")));
}

// Everything about the state after `at` steps of a trace.
function showState(place, trace, at) {
  const state = trace.states[at];
  const before = at > 0 ? trace.states[at - 1] : undefined;
  const step = at > 0 ? trace.steps[at - 1].label : "the start";
  place.replaceChildren(
    element("p", { class: "step mono" }, element("b", {}, at === 0 ? "" : at + "  "), step),
    stateTable(trace.servers, state, before),
    element("h3", {}, "Messages on their way"), messageList(state, before),
    element("h3", {}, "What happened so far"), historyLine(state, before));
}
