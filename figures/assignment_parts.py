"""How the page of soft assignments looks; ``assignment.py`` puts it together with its script."""

from __future__ import annotations

from tl_entropy.plots.tokens.page_style import DARK, LIGHT

STYLES = f"""
:root{{--page:#fff;{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{--page:#12161b;{DARK}}}}}
*{{box-sizing:border-box}}
html{{color-scheme:light dark}}
body{{margin:0 auto;padding:1.4rem clamp(.9rem,3vw,2.2rem) 3rem;max-width:76rem;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
h1{{font-size:1.35rem;line-height:1.25;margin:0 0 .3rem}}
h2{{font-size:.95rem;margin:1.4rem 0 .35rem}}
p{{margin:0 0 .6rem;max-width:60rem}}
.lead,.note,.controls output,.bars figcaption{{color:var(--soft);font-size:.86rem}}
.controls{{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.5rem 1.4rem;margin:1rem 0}}
.controls label{{display:block;font-size:.86rem}}
.controls span{{display:flex;justify-content:space-between;gap:.6rem}}
.controls input[type=range]{{width:100%;margin:.15rem 0;accent-color:var(--accent)}}
.controls input[type=checkbox]{{accent-color:var(--accent)}}
.view{{display:grid;gap:1.4rem;align-items:start}}
@media (min-width:800px){{.view{{grid-template-columns:minmax(0,25rem) minmax(0,1fr)}}}}
svg{{display:block;width:100%;height:auto;overflow:visible}}
.circle{{max-width:25rem;touch-action:manipulation;cursor:pointer}}
.bars figure{{margin:0 0 .7rem}}
.bars figcaption b{{color:var(--ink);font-weight:600}}
.bars svg{{height:4.4rem;border-bottom:1px solid var(--line)}}
.ring{{fill:none;stroke:var(--line)}}
.anchor{{fill:var(--ink)}}
.beam{{stroke:var(--ink);stroke-width:.012}}
.chosen{{fill:none;stroke:var(--ink);stroke-width:.02}}
.all{{fill:var(--soft)}}
.own{{fill:var(--accent)}}
table{{border-collapse:collapse;width:100%;font-size:.88rem;margin-top:.4rem}}
th{{font-weight:400;text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:baseline}}
td{{padding:.15rem 0;vertical-align:baseline}}
td:nth-child(2){{text-align:right;font-variant-numeric:tabular-nums;padding-right:.9rem;font-weight:600}}
td:last-child{{color:var(--soft)}}
tr{{border-bottom:1px solid var(--line)}}
li{{margin-bottom:.35rem;max-width:60rem}}
code{{font-size:.92em}}
"""

MARKUP = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How soft entropy assigns</title>
<style>{styles}</style>
</head>
<body>
<h1>How soft entropy assigns</h1>
<p class="lead">A state z has a direction: a point on a circle here, on a sphere of hundreds of dimensions in a model. It is
shared out over random anchors w by p = softmax(w · z / ε): much to those that are near. From the mean of these shares over all
points, and over those of a label, follow entropy and information.</p>
<noscript><p>This page computes as you move its sliders, and needs its script for that.</p></noscript>
<div class="controls">
<label><span>Temperature ε <output for="heat"></output></span>
<input type="range" id="heat" min="-4" max="6" step="0.25" value="3"></label>
<label><span>Anchors m <output for="bins"></output></span>
<input type="range" id="bins" min="2" max="64" step="1" value="24"></label>
<label><span>Draw of anchors <output for="seed"></output></span>
<input type="range" id="seed" min="0" max="7" step="1" value="0"></label>
<label><span>Concentration of labels <output for="kappa"></output></span>
<input type="range" id="kappa" min="-2" max="7" step="0.25" value="3"></label>
<label><span>Labels <output for="labels"></output></span>
<input type="range" id="labels" min="1" max="60" step="1" value="4"></label>
<label><span>Points <output for="points"></output></span>
<input type="range" id="points" min="0" max="3" step="1" value="2"></label>
<label><span>The point looked at <output for="point"></output></span>
<input type="range" id="point" min="0" max="199" step="1" value="0"></label>
<label><span>Labels that say nothing</span>
<input type="checkbox" id="random"> dealt at random</label>
</div>
<div class="view">
<div>
<svg class="circle" viewBox="-1.3 -1.3 2.6 2.6" role="img" aria-label="Points on a circle, and anchors"></svg>
<p class="note">Points are dashes outside the circle, in the colour of their label; the point looked at is ringed. Anchors are
dots on the circle, as large as their share of all points. Lines go from the point to the anchors that it is shared out over.
Click near a point to look at it.</p>
</div>
<div class="bars">
<figure><figcaption><b>P(Z)</b>, mean of all points: <b>H(Z)</b> = <data id="entropy"></data></figcaption>
<svg id="bars-all" preserveAspectRatio="none" role="img" aria-label="P(Z), by anchor"></svg></figure>
<figure><figcaption><b>P(Z given x)</b>, mean of the points with this point's label: <b>H(Z given x)</b> =
<data id="entropy-x"></data></figcaption>
<svg id="bars-label" preserveAspectRatio="none" role="img" aria-label="P(Z) given the label, by anchor"></svg></figure>
<figure><figcaption><b>P(Z given z)</b>, this point alone: <b>H(Z given z)</b> = <data id="entropy-z"></data></figcaption>
<svg id="bars-point" preserveAspectRatio="none" role="img" aria-label="P(Z) given the point, by anchor"></svg></figure>
<p class="note">One bar an anchor, in their order around the circle; all three have one scale.</p>
</div>
</div>
<h2>In nats</h2>
<table>
<tr><th>H(Z)</th><td><data id="entropy-all"></data></td><td>at most log m = <data id="most"></data></td></tr>
<tr><th>mean H(Z given z)</th><td><data id="own"></data></td><td>what a single point is blurred by</td></tr>
<tr><th>ceiling</th><td><data id="ceiling"></data></td>
<td>H(Z) − mean H(Z given z): the most that any labels could say</td></tr>
<tr><th>plug-in I(X;Z)</th><td><data id="plug-in"></data></td>
<td>H(Z) − mean H(Z given x): too high where a label has few points</td></tr>
<tr><th>cross-fitted I(X;Z)</th><td><data id="information"></data></td><td id="why"></td></tr>
<tr><th>its share of the ceiling</th><td><data id="share"></data></td>
<td>of the ceiling corrected likewise, <data id="corrected"></data></td></tr>
</table>
<h2>Try</h2>
<ul>
<li><b>Temperature.</b> Cold, every point goes to its nearest anchor: H(Z given z) is 0, and the shares are a histogram. Warm,
all points are shared out alike, and nothing is left to say. At 1 × one point tells log m nats of the circle: that is cold here,
since a circle has room for few narrow arcs; in hundreds of dimensions a point is shared out over many anchors.</li>
<li><b>Anchors and their draw.</b> H(Z) grows with their number, and moves with their draw.</li>
<li><b>Concentration.</b> Narrow clouds: a label says all that a point could, and the share nears 1. Wide ones: it says
nothing.</li>
<li><b>Rare labels.</b> Tick <i>dealt at random</i>, so that the truth is 0, and take more labels or fewer points. The plug-in
value climbs towards the ceiling; the cross-fitted one stays around 0.</li>
</ul>
<p class="note">The numbers are those of <code>tl_entropy.functional.soft_mutual_information</code>, each point a fold of its
own.</p>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
