"""The judge of the models: what is measured, against whom, and how sure one may be.

What a reader of the figures must know:

- Viewers, not impressions, are drawn anew for the intervals: a viewer's impressions are not independent.
- Two scorers are compared on the same draws. Their difference is far surer than either figure: read it, not two
  intervals that overlap.
- Everything here is static: what is scored may use nothing from `since` on, neither the models' histories nor the
  baselines' counters. Only so does GAUC mean anything. A viewer's own running rate moves against the label where a
  viewer has a handful of impressions (a click uses up some of the clicks there are), for a sequence model as for a
  counter, and with shuffled labels as well.
- Rates drift: where the span that is judged has more clicks than the one before, log-loss, relative cross-entropy and
  calibration suffer for every scorer, AUC and GAUC do not.
- An action may be unknown in a part of a log; there its absence is no negative. `labelled_since` says from when on it
  is known, and rows before that are no examples of it.
- Actions of one impression are one event seen several ways (a video's quality view follows from its click): none is
  used to predict another on the same row.
- A log shows what some ranking chose to show. Recall rewards imitating it; use it to compare, and no further.
"""
