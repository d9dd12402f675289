'use strict';
const all = (selector, under = document) => [...under.querySelectorAll(selector)];
const by = id => document.getElementById(id);

// Order and filter. Properties of an image are in its attributes; names are only ever written as text.
const lists = all('.class').map(group => ({
  group, list: group.querySelector('.tiles'),
  tiles: all('.tile', group), rest: all('.names li', group),
}));
const name = tile => tile.querySelector('button')?.dataset.name ?? tile.textContent;
const orders = {
  sure: (a, b) => b.dataset.sure - a.dataset.sure,
  unsure: (a, b) => a.dataset.sure - b.dataset.sure,
  margin: (a, b) => a.dataset.margin - b.dataset.margin,
  name: (a, b) => name(a).localeCompare(name(b)),
};
function filter() {
  const show = by('show').value, find = by('find').value.toLowerCase();
  let shown = 0, of = 0;
  for (const { group, tiles, rest } of lists) {
    let here = 0;
    for (const tile of [...tiles, ...rest]) {
      const wanted = show === 'all' || (show === 'changed' ? tile.classList.contains('changed') : tile.dataset.sure < +show);
      tile.hidden = !(wanted && (!find || name(tile).toLowerCase().includes(find)));
      here += !tile.hidden;
    }
    of += tiles.length + rest.length;
    shown += here;
    group.hidden = !here && (show !== 'all' || find !== '');
  }
  by('count').textContent = shown === of ? '' : `${shown} of ${of} images`;
}
function order() {
  for (const { list, tiles } of lists) if (list) list.append(...tiles.sort(orders[by('order').value]));
}
by('order').addEventListener('change', order);
by('show').addEventListener('change', filter);
by('find').addEventListener('input', filter);
document.querySelector('.tools').addEventListener('submit', event => event.preventDefault());
document.querySelector('.tools').hidden = false;

// The panel of one image: it follows the focus while it is open.
const panel = by('panel'), examples = {};
for (const one of all('[data-example]')) examples[one.dataset.example] = one;
let last = null;
function copy(of) {
  const img = of?.querySelector('img');
  if (!img) return '';
  const twin = new Image();
  twin.src = img.src;
  twin.alt = '';
  return twin;
}
function open(button) {
  const d = button.dataset;
  by('panel-name').textContent = d.name;
  by('panel-picture').replaceChildren(copy(button));
  const kinds = button.closest('.tile').classList;
  const aside = kinds.contains('unknown') ? 'None of the classes. Among them: ' : kinds.contains('undecided') ? 'Undecided. Best guess: ' : '';
  by('panel-words').textContent = aside + `${d.class}, ${d.percent} % sure`
    + (d.runner ? `; next ${d.runner}, ${d.runnerPercent} %` : '')
    + (d.before ? `; by the labelled examples alone it would be ${d.before}` : '') + '.';
  const near = d.near ? d.near.split(' ').map(i => examples[i]).filter(Boolean) : [];
  by('panel-like').hidden = !near.length;
  by('panel-near').replaceChildren(...near.map(one => {
    const item = document.createElement('li'), words = document.createElement('span');
    words.textContent = one.dataset.class;
    item.title = one.dataset.name;
    item.append(copy(one), words);
    return item;
  }));
  last = button;
  if (panel.open) return;
  panel.show();
  button.focus();  // which `show` took away: the next image is one Tab further
}
function close() {
  panel.close();
  last?.focus();
}
document.addEventListener('click', event => {
  const button = event.target.closest('.tile button'), point = event.target.closest('[data-p]');
  const chosen = button ?? (point && document.querySelector(`.tile button[data-i="${point.dataset.p}"]`));
  if (chosen) open(chosen);
});
document.addEventListener('focusin', event => {
  const button = event.target.closest('.tile button');
  if (button && panel.open) open(button);
});
document.addEventListener('keydown', event => { if (event.key === 'Escape' && panel.open) close(); });
by('close').addEventListener('click', close);
