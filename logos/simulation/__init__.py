"""The simulated world: an engine model, and what drives it in simulated or in real time.

`engine` is pure (no clock, no I/O): the HTTP server in `server/` paces itself by it in real time, and the
discrete-event simulation drives many of them from one heap. The model must not share code with
`logos.prediction`: a predictor that knows the simulator's formula proves nothing.
"""
