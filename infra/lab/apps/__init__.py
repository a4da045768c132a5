"""The lab's applications, one module each; a module's ``APP`` says what it is and needs."""
