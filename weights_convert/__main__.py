from weights_convert.cli import main

raise SystemExit(main())
