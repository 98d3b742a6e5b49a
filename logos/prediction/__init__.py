"""Online estimators: what an endpoint has done lately, and so what it will probably do next.

Every estimator has bounded memory, learns from values that it is handed, and can be written down and restored, so
that a journal replays. No decision is made here: the scheduling room asks and decides. `predictor` is the way in; a
scheduler keeps one `backlog` for each place where requests run, and says what a request meets as a `pace.Situation`.
"""
