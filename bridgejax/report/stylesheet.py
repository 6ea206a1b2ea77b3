"""The style sheet of report.html: light and dark, desktop and phone, no font or image from elsewhere."""

CSS = """
:root{--bg:#fafaf8;--card:#fff;--ink:#1b2126;--muted:#59646d;--line:#e2e6e8;--accent:#0b6b7f;--on-accent:#fff;
--bar:#cbd4d9;--base:#73828c;--heat:.62;--shade:#0003;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#13171a;--card:#1a1f23;--ink:#e6eaed;--muted:#9eaab3;--line:#2d353b;
--accent:#5fc2d6;--on-accent:#0d1a1e;--bar:#414d55;--base:#8796a0;--heat:.46;--shade:#000c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:1080px;margin:0 auto;padding:48px 32px 72px}
header{margin-bottom:40px}
h1{font-size:2.1rem;line-height:1.15;margin:.1em 0 .3em;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:0 0 .25em}
h3{font-size:.95rem;margin:0 0 .6em}
p{margin:0 0 1em;max-width:46em}
.kicker,.facts,.note,small,figcaption span{color:var(--muted)}
.kicker{margin:0;font-size:.85rem}
.facts{margin:0 0 1.6em;max-width:none}
.finding{font-size:1.22rem;line-height:1.5;max-width:42em;margin:0}
.found{margin:.7em 0 0;max-width:48em}
.note{font-size:.9rem;margin-bottom:1.2em}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:26px 28px 28px;margin:0 0 20px;
min-width:0}
.scroll{overflow-x:auto;max-width:100%;max-height:44rem;-webkit-overflow-scrolling:touch;
background:linear-gradient(to left,var(--card) 50%,transparent) right/36px 100% no-repeat local,
linear-gradient(to left,var(--shade),transparent) right/12px 100% no-repeat}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.9rem}
th{font-weight:600;text-align:left}
th,td{padding:8px 12px 8px 0;border-bottom:1px solid var(--line);vertical-align:middle}
.forest .scale i{font-style:normal;flex:1 1 0}.forest .scale i:nth-child(2){text-align:center}
.forest .scale i:last-child{text-align:right}
thead th{color:var(--muted);font-weight:500;font-size:.82rem;vertical-align:bottom;line-height:1.3}
tbody tr:last-child>*{border-bottom:0}
td.n,th.n{text-align:right;white-space:nowrap}thead th.n{white-space:normal}
td small{display:block;white-space:nowrap}
tr.focus th,tr.focus b,.focus .name b,.focus figcaption b{color:var(--accent)}
ul.bars{list-style:none;margin:0;padding:0}
.bars li{display:grid;grid-template-columns:minmax(9rem,16.5rem) 1fr 8.2rem;gap:2px 18px;align-items:center;padding:7px 0}
.name{min-width:0;line-height:1.3;overflow-wrap:anywhere}
.name small{display:block;font-size:.8rem}
.name b{font-weight:600}
.track{position:relative;height:32px;background:linear-gradient(to right,var(--line) 1px,transparent 1px) 0 0/25% 100%;
border-right:1px solid var(--line)}
.fill{position:absolute;inset:2px auto 2px 0;background:var(--bar);border-radius:0 4px 4px 0}
.focus .fill{background:var(--accent)}
.value{position:absolute;left:10px;top:0;line-height:32px;font-weight:600;font-size:.92rem;white-space:nowrap}
.focus .value{color:var(--on-accent)}
.track .value.out{color:var(--ink)}
.whisker{position:absolute;top:50%;height:2px;margin-top:-1px;background:var(--ink);box-shadow:0 0 0 1px var(--card)}
.whisker:before,.whisker:after{content:"";position:absolute;top:-4px;height:10px;width:2px;background:var(--ink);
box-shadow:0 0 0 1px var(--card)}
.whisker:before{left:0}.whisker:after{right:0}
.range{color:var(--muted);font-size:.85rem;text-align:right;white-space:nowrap}
.axis{padding:0!important;color:var(--muted);font-size:.8rem}
.axis .ticks{position:relative;height:1.5em}
.ticks i{position:absolute;transform:translateX(-50%);font-style:normal;white-space:nowrap}
.ticks i:first-child{transform:none}.ticks i:last-child{transform:translateX(-100%)}
.forest{min-width:120px;width:34%;padding-left:6px;padding-right:18px}
.scale{display:flex;justify-content:space-between}
.forest div.row{position:relative;height:24px}
.forest .zero{position:absolute;left:50%;top:-8px;bottom:-8px;width:1px;background:var(--base)}
.forest .span{position:absolute;top:11px;height:2px;background:var(--base)}
.forest .dot{position:absolute;top:7px;width:10px;height:10px;margin-left:-5px;border-radius:50%;background:var(--base);
box-shadow:0 0 0 2px var(--card)}
.focus .forest .span,.focus .forest .dot{background:var(--accent)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(228px,1fr));gap:26px 28px}
figure{margin:0;min-width:0}
figcaption{display:flex;justify-content:space-between;gap:10px;font-size:.88rem;margin-bottom:6px;align-items:baseline}
figcaption b{font-weight:600;overflow-wrap:anywhere;min-width:0}
figcaption span{white-space:nowrap}.pairs figcaption span{white-space:normal}
.plot{position:relative;height:132px;margin:0 6px 22px 34px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible;display:block}
.plot svg *{vector-effect:non-scaling-stroke}
.grid{stroke:var(--line);stroke-width:1}
.switch{stroke:var(--muted);stroke-width:1}
.line{fill:none;stroke:var(--ink);stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}
.band{fill:var(--ink);opacity:.1}
.basis{fill:none;stroke:var(--base);stroke-width:1.5;stroke-dasharray:4 4}
.focus .line{stroke:var(--accent);stroke-width:2.5}.focus .band{fill:var(--accent);opacity:.16}
.plot i{position:absolute;font-style:normal;font-size:.75rem;line-height:1;color:var(--muted);white-space:nowrap}
.plot .y{right:100%;margin-right:7px;transform:translateY(50%)}
.plot .x{top:100%;margin-top:7px;transform:translateX(-50%)}
.plot .x.first{transform:none}.plot .x.last{transform:translateX(-100%)}
.plot .stage{bottom:4px;margin-left:5px}
.plot .stage.left{margin-left:-5px;transform:translateX(-100%)}
.prices{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:26px 36px}
.plot.price{margin:4px 46% 26px 34px}
.price .lead{stroke:var(--base);stroke-width:1;opacity:.45}
.price .dot{position:absolute;width:11px;height:11px;margin:-5.5px 0 0 -5.5px;border-radius:50%;background:var(--base);
box-shadow:0 0 0 2px var(--card)}
.price .dot.focus{background:var(--accent)}.price .dot.base{background:var(--card);box-shadow:inset 0 0 0 2.5px var(--base)}
.price .tag{position:absolute;left:100%;width:88%;padding-left:8px;transform:translateY(-50%);font-size:.82rem;
line-height:1.1}
.price .dot.focus{z-index:1}.price .tag.focus{color:var(--accent);font-weight:600}
.key{display:inline-block;width:22px;border-top:2px dashed var(--base);vertical-align:middle;margin-right:4px}
.classes table{table-layout:fixed;width:min(100%,calc(11rem + var(--arms)*9rem));
min-width:calc(8rem + var(--arms)*4.9rem)}
.classes th:first-child{width:10.5rem}
.heat td{text-align:right;padding:6px 10px;border-bottom:2px solid var(--card);border-right:2px solid var(--card);
background:color-mix(in srgb,var(--accent) calc(var(--v,0)*var(--heat)*1%),var(--card))}
.heat thead th{text-align:right;padding:0 10px 8px 0;max-width:9rem;position:sticky;top:0;background:var(--card);z-index:1}
.heat thead th:first-child{text-align:left;z-index:2}
.heat th:first-child{position:sticky;left:0;background:var(--card);padding-right:14px;min-width:6.5rem;max-width:11rem;
z-index:1}
.heat thead th.focus{color:var(--accent);font-weight:600}
.heat tbody th{font-weight:500;border-bottom:0;padding-top:6px;padding-bottom:6px}
.heat tr.total>*{border-top:1px solid var(--line);font-weight:600;background:var(--card)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:28px}
.pair>div{min-width:0}
.pair.wide{grid-template-columns:minmax(0,1fr)}
.confusion table{width:auto;font-size:.8rem}
.confusion td{text-align:center;padding:0;min-width:30px;height:28px}
.confusion td.no{color:transparent}
.confusion thead th{padding:0 0 6px;height:10.6em;text-align:center;font-size:.78rem}
.confusion thead th span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:10.4em;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap;
display:inline-block}
.confusion tbody th{max-width:9rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;padding:0 10px 0 0;
font-size:.8rem}
.confusion td.same{box-shadow:inset 0 0 0 1px var(--base)}
.sheet{display:grid;grid-template-columns:minmax(7rem,1fr) var(--columns);gap:10px 26px;align-items:center}
.sheet h3{margin:0;overflow-wrap:anywhere}
.sheet .head{color:var(--muted);font-size:.85rem}
.strip{display:grid;grid-template-columns:repeat(var(--k),minmax(0,96px));gap:6px}
.strip img{display:block;width:100%;aspect-ratio:1;border-radius:6px;background:#fff;border:1px solid var(--line)}
.strip.empty{color:var(--muted);font-size:.85rem;display:block}
.strip.near img:first-child{outline:2px solid var(--accent);outline-offset:1px}
.strip+figcaption{margin:6px 0 0}
.shown{margin-top:24px}h3.above{margin-bottom:1em}.prices+.scroll{margin-top:18px}
.label{display:none}
details{margin-top:18px}
summary{cursor:pointer;color:var(--muted);font-size:.92rem;padding:4px 0}
section>details:first-of-type:last-child{margin-bottom:-6px}
pre{margin:10px 0 0;padding:14px 16px;background:var(--bg);border:1px solid var(--line);border-radius:8px;overflow:auto;
max-height:30rem;
font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;overflow-wrap:normal}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.85rem;padding:8px 4px}
@media (max-width:640px){
main{padding:26px 14px 48px}header{margin-bottom:28px;padding:0 4px}h1{font-size:1.65rem}.finding{font-size:1.08rem}
section{padding:20px 16px 22px;border-radius:10px}
.bars li{grid-template-columns:1fr auto;padding:9px 0}.bars .track,.axis .ticks{grid-column:1/-1}.bars .range{grid-row:1;
grid-column:2;align-self:end}
.axis .name,.axis .range{display:none}
table{font-size:.84rem}th,td{padding-right:9px}thead th{font-size:.76rem}.forest,.seeds{display:none}
.panels{grid-template-columns:1fr}.plot{height:150px}
.sheet{grid-template-columns:minmax(0,1fr);gap:6px}.sheet .head{display:none}.sheet h3{margin-top:14px}
.label{display:block;font-size:.8rem;color:var(--muted)}
.heat th:first-child{max-width:7.5rem;min-width:5.5rem}.classes th:first-child{width:5.3rem;font-size:.76rem}
.classes table{min-width:calc(5.3rem + var(--arms)*2.2rem)}.classes td{padding:6px 5px;font-size:.76rem;white-space:nowrap}
.classes thead th+th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;height:12.8em;padding:8px 10px 0 0;
font-size:.74rem}
.plot.price{margin-right:49%}.price .tag{width:104%;font-size:.76rem;padding-left:6px}
.figures tr{display:grid;grid-template-columns:6.5rem 1fr;border-bottom:1px solid var(--line);padding:6px 0}
.figures tr>*{border:0;padding:1px 0}.figures tr>:last-child{grid-column:1/-1;color:var(--muted)}
.advice,.figures,.cost{max-height:none}
.advice thead{display:none}.advice tr{border-bottom:1px solid var(--line);padding:6px 0}
.advice tr{display:grid;grid-template-columns:4.4rem 1fr}.advice tr>*{border:0;padding:1px 0}
.advice tr>th{grid-row:1/span 4}.advice td{grid-column:2}.advice td:last-child{color:var(--muted)}
.panels.pairs{grid-template-columns:1fr 1fr;gap:16px 18px}
.confusion table{font-size:.6rem;width:100%}.confusion td{min-width:0;height:22px}
.confusion tbody th{max-width:3.9rem;min-width:0;font-size:.66rem;padding-right:4px}
.gains th,.gains td{padding-right:4px}.gains th{font-size:.74rem}.gains td small{font-size:.6rem;letter-spacing:-.02em}
.gains tr>:nth-child(2){display:none}
.cost table{font-size:.74rem;table-layout:fixed}.cost th,.cost td{padding-right:4px}.cost thead th{font-size:.66rem}
.cost th:first-child{width:32%;overflow-wrap:anywhere}
}
@media print{section{break-inside:avoid}.scroll{max-height:none;overflow:visible}}
"""
