<?php foreach ([1, 2, 3] as $n) { echo "<li>$n</li>\n"; }
