"""The benchmarks behind the published figures. Each prints one JSON object (`benchmarks.report`)."""
