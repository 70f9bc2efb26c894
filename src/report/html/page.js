(() => {
'use strict';
// The page is complete without this script: it sorts, filters, shows tooltips, shows one heat map at a time,
// lays one trial's curve over the charts, copies, and on a live page fetches the newer page.
const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const state = { sort: null, down: false, filter: '', outcome: '', one: '0', two: '1', over: '' };
root.classList.add('scripted');

const cell = (tr, i) => { const td = tr.cells[i]; return td.dataset.v ?? td.textContent.trim(); };
function compare(a, b) {
  const x = parseFloat(a), y = parseFloat(b);
  // Missing values go last in either direction; the caller turns the rest round.
  if (a === '' || b === '') return (a === '') - (b === '');
  const numbers = !Number.isNaN(x) && !Number.isNaN(y);
  return (numbers ? x - y : a < b ? -1 : a > b ? 1 : 0) * (state.down ? -1 : 1);
}
function sort() {
  const table = $('table');
  table.querySelectorAll('thead th').forEach((th, i) => {
    if (th.hasAttribute('aria-sort'))
      th.setAttribute('aria-sort', i !== state.sort ? 'none' : state.down ? 'descending' : 'ascending');
  });
  if (state.sort === null) return;
  const rows = [...table.tBodies[0].rows].map((tr) => [cell(tr, state.sort), tr]);
  rows.sort((a, b) => compare(a[0], b[0]));
  table.tBodies[0].append(...rows.map((r) => r[1]));
}
function filter() {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const tr of $('table').tBodies[0].rows) {
    const text = tr.textContent.toLowerCase();
    const ok = (!state.outcome || tr.dataset.o === state.outcome) && words.every((w) => text.includes(w));
    tr.hidden = !ok;
    all += 1;
    shown += ok;
  }
  $('count').textContent = `${shown} of ${all}`;
}
// Two selects, one map. A pair's map has the more important parameter across; the same one twice moves the other on.
function heat(event) {
  if (!$('one')) return;
  if (state.one === state.two) {
    const other = event && event.target.id === 'two' ? 'one' : 'two';
    state[other] = state[other] === '0' ? '1' : '0';
  }
  $('one').value = state.one;
  $('two').value = state.two;
  const pair = [Number(state.one), Number(state.two)].sort((a, b) => a - b).join(' ');
  document.querySelectorAll('.heat').forEach((h) => h.classList.toggle('shown', h.dataset.pair === pair));
}
function scale(text) {
  const [low, high, from, to, log] = text.split(' ').map(Number);
  const f = (v) => (log ? Math.log(Math.max(v, low * 1e-3, 1e-12)) : v);
  return (v) => from + Math.min(1, Math.max(0, (f(v) - f(low)) / (f(high) - f(low)))) * (to - from);
}
function over() {
  const data = JSON.parse($('curves').textContent);
  const points = (state.over && data[state.over]) || [];
  const columns = { goodput: [1], loss: [2], latency: [3, 4, 5] };
  document.querySelectorAll('svg[data-chart]').forEach((svg) => {
    const x = scale(svg.dataset.x), y = scale(svg.dataset.y), g = svg.querySelector('g.over');
    g.replaceChildren(...columns[svg.dataset.chart].map((c, k) => {
      const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
      path.setAttribute('class', `curve picked q${k}`);
      path.setAttribute('d', points.map((p, i) => `${i ? 'L' : 'M'}${x(p[0]).toFixed(1)} ${y(p[c]).toFixed(1)}`).join(''));
      return path;
    }));
  });
}
const tip = document.createElement('div');
tip.id = 'tip';
document.body.append(tip);
function show(event) {
  const mark = event.target.closest && event.target.closest('svg *');
  const title = mark && mark.querySelector(':scope > title');
  // The browser's own tooltip would come as well: keep the text aside.
  if (title) { mark.dataset.tip = title.textContent; title.remove(); }
  tip.textContent = (mark && mark.dataset.tip) || '';
  if (!tip.textContent) return;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
  tip.style.top = `${event.clientY + box.height + 20 > innerHeight ? event.clientY - box.height - 10 : event.clientY + 14}px`;
}
document.addEventListener('pointerover', show);
document.addEventListener('pointerdown', show);

function copy(button) {
  const pre = button.closest('div').querySelector('pre');
  getSelection().selectAllChildren(pre);
  const said = (text) => { button.textContent = text; };
  // Where the clipboard is not given, the text is selected: one key is left to press.
  if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).then(() => said('copied'), () => said('selected'));
  else said('selected');
}
document.addEventListener('click', (event) => {
  const button = event.target.closest('button.copy');
  if (button) { copy(button); return; }
  const thumb = event.target.closest('#table svg.thumb');
  if (thumb) {
    state.over = thumb.closest('tr').cells[0].textContent.trim();
    $('over').value = state.over;
    over();
    $('curves-head').scrollIntoView();
    return;
  }
  const th = event.target.closest('#table thead th[aria-sort]');
  if (!th) return;
  state.down = state.sort === th.cellIndex ? !state.down : th.classList.contains('n') && th.cellIndex > 0;
  state.sort = th.cellIndex;
  sort();
});
document.addEventListener('input', (event) => {
  const redo = { filter, outcome: filter, one: heat, two: heat, over }[event.target.id];
  if (!redo) return;
  state[event.target.id] = event.target.value;
  redo(event);
});
function start() {
  for (const id of ['filter', 'outcome', 'over']) if ($(id)) $(id).value = state[id];
  sort(); filter(); heat(); over();
}
start();

if ('live' in root.dataset) {
  const news = new EventSource('events');
  let busy = false, again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch('main', { cache: 'no-store' });
      if (answer.ok) {
        const focus = document.activeElement && document.activeElement.id;
        $('main').innerHTML = await answer.text();
        start();
        if (focus && $(focus)) $(focus).focus();
      }
    } finally {
      busy = false;
      if (again) { again = false; refresh(); }
    }
  };
  news.addEventListener('changed', refresh);
  news.addEventListener('open', () => { delete root.dataset.lost; });
  news.addEventListener('error', () => { root.dataset.lost = ''; });
}
})();
