"""Flow state on the bus: the flow table, features, windows, and the Faust app that feeds them."""
