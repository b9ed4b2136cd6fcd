# comment
from Scratch as B

RUN a \
    b \

  # inside
    c
  run	x  y	
CMD [ "a", "b\tc", "é" ]
CMD ['a']
ENTRYPOINT []
LABEL k \
 v \\
