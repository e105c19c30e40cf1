"""How a page looks: one column, system fonts, light and dark by the reader's setting, printable."""

CSS = """\
:root {
  --paper: #fff; --panel: #f6f7f9; --ink: #1f2934; --muted: #66717c; --grid: #e1e5e9; --line: #d5dae0;
  --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #b0569b; --c5: #c98a00; --c6: #3a9fdc; --c7: #7d5a3c;
  --loud-paper: #fdeee4; --loud-line: #d55e00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --panel: #1c2229; --ink: #e4e8ec; --muted: #98a3ae; --grid: #2b323a; --line: #38414b;
    --c1: #56b0e8; --c2: #f08a4b; --c3: #35c39a; --c4: #d68cc4; --c5: #e3b04a; --c6: #8cc9f0; --c7: #c09a78;
    --loud-paper: #3a2216; --loud-line: #f08a4b;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.question { color: var(--muted); }
.lead { font-size: 1.2rem; line-height: 1.45; font-weight: 600; margin: .8rem 0 1.2rem; }
.note, .notes { color: var(--muted); font-size: .86rem; }
.notes p { margin: .2rem 0; }
.notice { background: var(--loud-paper); border: 2px solid var(--loud-line); border-radius: 6px;
  padding: .8rem 1rem; margin: 1.2rem 0; }
.notice ul { margin: .4rem 0 0; padding-left: 1.2rem; }
ul { padding-left: 1.2rem; }
dl { margin: .6rem 0; }
dl div { display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: 1rem; padding: .28rem 0;
  border-bottom: 1px solid var(--grid); }
dt { color: var(--muted); } dd { margin: 0; }
.table { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem 1.1rem .32rem 0; border-bottom: 1px solid var(--grid); vertical-align: top;
  overflow-wrap: normal; }
th { color: var(--muted); font-weight: 600; border-bottom-color: var(--line); vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.strong td { font-weight: 700; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.6rem 2rem;
  margin: 1rem 0; }
figure { margin: 0; min-width: 0; max-width: 30rem; }
figure.wide { grid-column: 1 / -1; max-width: none; }
figure h3 { margin: 0 0 .3rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--muted); font-size: .84rem; line-height: 1.45; margin-top: .4rem; }
pre { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .84rem;
  line-height: 1.5; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
summary { cursor: pointer; }
details[open] > summary { margin-bottom: .5rem; }
@media (max-width: 40rem) {
  main { padding: 1rem .8rem 3rem; }
  dl div { grid-template-columns: 1fr; gap: 0; }
  th, td { padding-right: .8rem; }
  .wide .drawing { overflow-x: auto; } .wide svg { min-width: 40rem; }
}
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  figure, .notice, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
  .table, pre { overflow: visible; } pre { white-space: pre-wrap; }
}
"""
