"""The traffic lab: labelled captures of real programs that talk to each other in network namespaces.

Rooms: ``network`` builds the namespaces, ``node`` runs inside one of them and drives the applications of
``apps``, ``capture`` records one side of the wire, ``labels`` turns the recording and the known endpoints of
the servers into one row of truth per flow. ``make`` puts them together.
"""
