"""Offline evaluation of the models: metrics, baselines and confidence intervals.

How to read the figures:

- Intervals come from the cluster bootstrap: viewers are resampled, not impressions, because the impressions of a viewer
  are not independent.
- Two scorers are compared on the same resamples (paired bootstrap). Their difference has a much smaller error than the
  figures themselves, so read the difference, not two overlapping intervals.
- The evaluation is static, not prequential: histories and counters contain nothing from `since` on. A running rate of
  the viewer is negatively correlated with the label if the viewer has few impressions, because a click reduces the
  number of clicks left. It would bias GAUC, for sequence models and counters, and with shuffled labels as well.
- Rates drift. If the evaluated span has more clicks than the span before, log-loss, relative cross-entropy and
  calibration get worse for every scorer. AUC and GAUC do not.
- A log may record an action only from a later time on. Before that time, given by `labelled_since`, the absence of the
  action is an unknown label, and the rows are no examples of it.
- Actions on one impression are dependent: a quality view of a video follows from its click. No action is used to
  predict another action on the same row.
- The log shows the choices of an earlier ranking (selection bias). Recall rewards imitation of that ranking, so use it
  only to compare scorers.
"""
